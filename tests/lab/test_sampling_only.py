"""Experiments that change only how images are made take the weights of their parent, and are compared by images."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from micro_diffusion.checkpoint import save_weights, write_config
from micro_diffusion.lab.experiments import Experiment, composed, resolved
from micro_diffusion.lab.planning import Plan, only_samples, planned
from micro_diffusion.lab.report import write_report
from micro_diffusion.lab.results import append, read
from micro_diffusion.lab.running import missing, run_all, waves
from micro_diffusion.lab.sampled import KINDS, images_table, scored
from micro_diffusion.lab.scoring import score
from tests.lab.test_report import HEAD, MARKS, result
from tests.lab.test_running import ROOT, Trainer, plan

CONFIGS = ROOT / "configs"


def sampled(folder: Path, name: str = "steps", seed: int = 1, **needs: Plan) -> Plan:
    made = plan(folder, name, seed)
    return made._replace(experiment=Experiment(name, "base", {}), **needs)


class Worker(Trainer):
    """Leaves scores alone where a run only samples."""

    def __call__(self, plan: Plan) -> int:
        status = super().__call__(plan)
        if plan.training is not None and status == 0:
            assert plan.training.is_complete
            (plan.folder / "metrics.jsonl").write_text(json.dumps({"step": 4, "images/single": 0.75}) + "\n")
            (plan.folder / "complete.json").unlink()
        return status


def test_only_what_follows_training_may_differ():
    config = OmegaConf.create({"sampler": {"steps": 1}, "callbacks": {"composition": {}}, "model": {"x": 1}})
    assert not only_samples(config, config)
    fewer = OmegaConf.merge(config, {"sampler": {"steps": 2}, "callbacks": {"composition": {"weaker": "a"}}})
    assert only_samples(fewer, config)
    assert not only_samples(OmegaConf.merge(fewer, {"model": {"x": 2}}), config)
    assert not only_samples(OmegaConf.merge(fewer, {"callbacks": {"other": {}}}), config)


@pytest.mark.parametrize("name", ["steps_18", "guidance_interval", "no_guidance", "autoguidance"])
def test_these_experiments_train_nothing(name: str):
    assert only_samples(composed(CONFIGS, name), composed(CONFIGS, "base"))


def test_only_the_judge_of_shapes_can_tell_them_apart():
    with pytest.raises(ValueError, match="steps_18 is judged by what images show, which bench emoji cannot"):
        planned(CONFIGS, ["steps_18"], [1], 1e12, bench="emoji")


def test_all_are_those_that_the_bench_can_tell_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    configs = shutil.copytree(CONFIGS, tmp_path / "configs")
    for path in (configs / "experiment").glob("*.yaml"):
        if path.stem not in ("base", "no_rotary", "steps_18", "repa"):
            path.unlink()
    made = planned(configs, None, [1], 1e12, bench="emoji")
    assert [plan.experiment.name for plan in made] == ["base", "no_rotary"]
    said = capsys.readouterr().out
    assert "left out: steps_18 is judged by what images show" in said
    assert "left out: repa needs what bench shapes has, and emoji has not" in said


def test_plans_name_the_run_of_the_parent_and_the_weaker_one():
    base, steps, guided = planned(CONFIGS, ["base", "steps_18", "autoguidance"], [4], 1e12, ["output_dir=here"])
    assert (base.training, base.weaker, steps.weaker) == (None, None, None)
    assert steps.training is not None and steps.training.key == base.key != steps.key
    assert steps.cost == base.cost and steps.config.trainer.max_duration == base.config.trainer.max_duration
    assert guided.training is not None and guided.training.key == base.key
    weaker = guided.weaker
    assert weaker is not None and (weaker.experiment.name, weaker.seed, weaker.budget) == ("base", 4, 1.25e11)
    assert guided.config.callbacks.composition.weaker == str(weaker.folder)
    assert guided.content()["callbacks"]["composition"]["weaker"] == f"base/4_{weaker.key}"


def test_what_is_needed_is_trained_first_and_once(tmp_path: Path):
    out, base, weaker = tmp_path / "results.jsonl", plan(tmp_path), plan(tmp_path, "weaker")
    steps = sampled(tmp_path, training=base)
    guided = sampled(tmp_path, "guided", training=base, weaker=weaker)
    assert [[one.key for one in wave] for wave in waves([steps, base])] == [["base1"], ["steps1"]]
    worker = Worker()
    run_all([guided, steps, base], out, train=worker)
    assert worker.trained == ["base1", "weaker1", "guided1", "steps1"]
    assert missing([guided], {}) == []
    results = {one.key: one for one in read(out)}
    made = results["steps1"]
    assert (made.training, made.scores, made.curve) == ("base1", {"single": 0.75}, results["base1"].curve)
    assert results["base1"].training is None and made.error is None
    again = Worker()
    run_all([guided, steps, base], out, train=again)
    assert again.trained == []


def test_a_run_that_failed_is_not_tried_for_others(tmp_path: Path):
    out, base = tmp_path / "results.jsonl", plan(tmp_path)
    run_all([base], out, train=Worker(fails="base"))
    worker = Trainer()
    run_all([sampled(tmp_path, training=base)], out, train=worker)
    assert worker.trained == ["steps1"]
    assert {one.key: one.error is None for one in read(out)} == {"base1": False, "steps1": False}
    again = Worker()
    run_all([sampled(tmp_path, training=base)], out, train=again, again=True)
    assert again.trained == ["base1", "steps1"]


def test_scores_are_those_of_the_weights_of_the_training(tmp_path: Path):
    """Of the whole configuration, to which parts of the model refer."""
    small = [f"output_dir={tmp_path}", "prompts.captions.count=1", "backbone.depth=1", "model.cpu_precision=fp32"]
    (steps,) = planned(CONFIGS, ["steps_18"], [1], 1e10, small)
    training = steps.training
    assert training is not None
    write_config(training.folder, resolved(training.config))
    network = instantiate(training.config.model, _convert_="all").network
    save_weights(training.folder, network.state_dict(), "ema")
    steps.folder.mkdir(parents=True)
    config = DictConfig(OmegaConf.create(OmegaConf.to_yaml(steps.config)))  # as the process of a run gets it
    score(config, steps.folder, training.folder)
    made = json.loads((steps.folder / "metrics.jsonl").read_text())
    assert made["images/calls"] == 2 * 18 and made["step"] > 0
    assert {made[f"images/{kind}"] for kind in KINDS} == {0.0}  # a network that has learned nothing
    save_weights(training.folder, {name: weight[:1] for name, weight in network.state_dict().items()}, "ema")
    with pytest.raises(ValueError, match=str(training.folder)):
        score(config, steps.folder, training.folder)


def scores(value: float) -> dict[str, float]:
    return {"single": value, "two": value, "held_out": value, "calls": 18.0}


def test_images_are_compared_by_seed():
    theirs = {seed: result(seed=seed, scores=scores(0.5 + seed / 10)) for seed in (1, 2, 3)}
    better = {
        seed: result("steps", seed, parent="base", scores=scores(0.6 + seed / 10 + seed / 1000), training=f"base{seed}")
        for seed in (1, 2, 3)
    }
    (row,) = scored({"base": theirs, "steps": better}, {"steps": better})
    assert row.apart.of.value == pytest.approx(0.102) and row.apart.paired < 0.001 < row.apart.welch
    assert row.apart.of.error == pytest.approx(0.001 / 3**0.5)  # of the differences, as the test is
    assert row.verdict == "better"
    line = images_table({"base": theirs, "steps": better}, {"steps": better})[-1]
    assert line.startswith("| steps | 3 | 18 | 0.80 ± 0.06 | 0.80 ± 0.06 | 0.80 ± 0.06 | 0.80 ± 0.06 | base | +0.1020")
    without = {seed: replace(run, scores={}) for seed, run in theirs.items()}
    assert scored({"base": without, "steps": better}, {"steps": better}) == []


def test_the_page_has_a_table_of_images_and_no_curve_of_them(tmp_path: Path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/base.yaml").write_text(HEAD.replace("# Changes:    model.train_mask_ratio\n", ""))
    (tmp_path / "experiment/steps.yaml").write_text(HEAD + "defaults: [base, _self_]\n")
    (tmp_path / "lab.md").write_text(f"# Lab\n{MARKS[0]}\n{MARKS[1]}\n")
    for seed in (1, 2):
        append(tmp_path / "results.jsonl", result("base", seed, scores=scores(0.5 + seed / 100)))
        made = result("steps", seed, parent="base", scores=scores(0.25 + seed / 50), training=f"base{seed}")
        append(tmp_path / "results.jsonl", made)
    write_report(tmp_path / "results.jsonl", tmp_path / "lab.md", tmp_path / "experiment")
    page = (tmp_path / "lab.md").read_text()
    assert [line.split(" | ")[:2] for line in page.splitlines() if line.startswith("| steps")] == [["| steps", "2"]]
    assert "network calls each" in page and "![" not in page
    assert "right 0.280 ± 0.010, -0.2350" in (tmp_path / "experiment/steps.yaml").read_text()
