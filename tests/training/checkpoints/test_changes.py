"""What may change when a run goes on."""

from typing import Any

import pytest

from micro_diffusion.training.checkpoints.changes import Change, changes, refused

COMPOSER = "composer.optim."
COSINE = {"_target_": f"{COMPOSER}CosineAnnealingWithWarmupScheduler", "t_warmup": "10ba", "alpha_f": 0.0}
EMA = {"_target_": "micro_diffusion.training.optimizers.ema.EMA", "start": "10ba"}
BEFORE: dict[str, Any] = {
    "exp_name": "mine",
    "output_dir": "runs",
    "accept_changes": [],
    "model": {"train_mask_ratio": 0.75},
    "optimizer": {"lr": 0.1},
    "schedule": {"_target_": f"{COMPOSER}ConstantScheduler"},
    "algorithms": {"ema": EMA},
    "callbacks": {"lines": {"interval": "5ba"}},
    "machine": {"precision": "fp32", "device": "cpu"},
    "train_loader": {"workers": 0, "path": "latents", "batch_size": 4},
    "trainer": {
        "max_duration": "400ba",
        "precision": "fp32",
        "save_interval": "4ba",
        "save_folder": "runs/mine/checkpoints",
        "device_train_microbatch_size": 8,
    },
}


def changed(config: dict[str, Any], **values: Any) -> dict[str, Any]:
    """A configuration in which `a__b=c` has set a.b."""
    for key, value in values.items():
        name, _, rest = key.partition("__")
        config = {**config, name: changed(config.get(name) or {}, **{rest: value}) if rest else value}
    return config


@pytest.mark.parametrize(
    "values",
    [
        {"callbacks__lines__interval": "9ba"},
        {"callbacks": {}},
        {"loggers__wandb__project": "mine"},
        {"machine__device": "gpu"},
        {"train_loader__workers": 8},
        {"trainer__save_interval": "50ba"},
        {"trainer__device_train_microbatch_size": 4},
        {"trainer__max_duration": "800ba"},  # with a constant learning rate
        {"output_dir": "elsewhere", "trainer__save_folder": "elsewhere/mine/checkpoints"},
    ],
)
def test_how_a_run_goes_and_what_it_shows_may_change(values: dict[str, Any]):
    after = changed(BEFORE, **values)
    assert changes(BEFORE, after) and refused(BEFORE, after) == []


@pytest.mark.parametrize(
    "values",
    [
        {"optimizer__lr": 0.2},
        {"model__train_mask_ratio": 0.5},
        {"train_loader__batch_size": 8},
        {"trainer__precision": "amp_bf16"},
        {"machine__precision": "amp_bf16"},
        {"trainer__scale_schedule_ratio": 0.5},
        {"trainer__train_subset_num_batches": 3},
        {"trainer__load_path": "other.pt"},
        {"trainer__save_folder": "elsewhere"},  # where no checkpoint would be found
        {"trainer__autoresume": False},
        {"algorithms__ema__start": "20ba"},
        {"schedule__t_max": "100ba"},
        {"trainer__max_duration": "400ep"},
    ],
)
def test_what_is_learned_may_not(values: dict[str, Any]):
    key, value = next(iter(values.items()))
    (change,) = refused(BEFORE, changed(BEFORE, **values))
    assert (change.key, change.after) == (key.replace("__", "."), value)


@pytest.mark.parametrize(
    ("schedule", "algorithms", "durations", "matters"),
    [
        (COSINE, {}, ("400ba", "800ba"), True),
        (COSINE, {}, ("4ep", "8ep"), True),
        ({**COSINE, "t_max": "900ba"}, {}, ("400ba", "800ba"), False),
        ({"_target_": f"{COMPOSER}ConstantWithWarmupScheduler", "t_warmup": "0.1dur"}, {}, ("400ba", "800ba"), True),
        ({"_target_": f"{COMPOSER}ConstantWithWarmupScheduler", "t_warmup": "40ba"}, {}, ("4ep", "8ep"), False),
        ({"_target_": f"{COMPOSER}ConstantWithWarmupScheduler", "t_warmup": "9sp"}, {}, ("400sp", "90sp"), False),
        ({"_target_": f"{COMPOSER}MultiStepScheduler", "milestones": ["0.333dur"]}, {}, ("10000ba", "10050ba"), True),
        ({"_target_": f"{COMPOSER}MultiStepScheduler", "milestones": ["90ba"]}, {}, ("10000ba", "10050ba"), False),
        ({"_target_": f"{COMPOSER}LinearScheduler", "alpha_f": 0.0}, {}, ("10000ba", "10050ba"), True),
        ({**BEFORE["schedule"], "alpha": 0.5, "t_max": "0.5dur"}, {}, ("400ba", "800ba"), True),
        ({"_target_": "torch.optim.lr_scheduler.LambdaLR"}, {}, ("400ba", "800ba"), True),  # whatever it looks at
        (BEFORE["schedule"], {"ema": {**EMA, "start": "0.5dur"}}, ("400ba", "800ba"), True),
        (BEFORE["schedule"], {"ema": None}, ("400ba", "800ba"), False),
    ],
)
def test_the_end_of_a_run_may_change_where_nothing_before_it_depends_on_it(schedule, algorithms, durations, matters):
    before, after = (
        BEFORE | {"schedule": schedule, "algorithms": algorithms, "trainer": {"max_duration": duration}}
        for duration in durations
    )
    assert bool(refused(before, after)) == matters


def test_what_is_accepted_is_not_refused():
    after = changed(BEFORE, schedule=COSINE, trainer__precision="amp_bf16", machine__precision="amp_bf16")
    names = {"schedule", "trainer.precision", "machine.precision"}
    assert {change.key.removesuffix("._target_") for change in refused(BEFORE, after)} >= names
    assert refused(BEFORE, changed(after, accept_changes=sorted(names))) == []
    left = refused(BEFORE, changed(after, accept_changes=["schedule", "trainer"]))
    assert left == [Change("machine.precision", "fp32", "amp_bf16")]
    assert str(left[0]) == "machine.precision=amp_bf16 (was fp32)"


@pytest.mark.parametrize("model", [{"final_mask_ratio": 0.0}, {"auxiliary": {"none": None, "repa": {"until": 0.5}}}])
def test_another_end_matters_where_the_loss_looks_at_it(model: dict[str, Any]):
    def longer(**changes: Any) -> list[str]:
        before = {**BEFORE, "model": BEFORE["model"] | changes}
        return [change.key for change in refused(before, changed(before, trainer__max_duration="800ba"))]

    assert longer(**model) == ["trainer.max_duration"]
    assert longer(auxiliary={"repa": {"weight": 0.5}}) == []
