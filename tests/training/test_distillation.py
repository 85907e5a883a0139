"""A small run distilled by train.py's own way, and what its loss is made of."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from safetensors.torch import load_file

from micro_diffusion.checkpoint import load_run
from micro_diffusion.condition import Condition
from micro_diffusion.diffusion.consistency import consistent
from micro_diffusion.diffusion.edm import EDM
from micro_diffusion.generation.pipeline import Pipeline
from micro_diffusion.sampling.euler import EulerSampler
from micro_diffusion.sampling.guidance import guided_denoiser
from micro_diffusion.sampling.heun import HeunSampler
from micro_diffusion.training.config_checks.coherence import check_coherence
from micro_diffusion.training.config_checks.resolvers import register_resolvers
from micro_diffusion.training.distillation import Distillation
from micro_diffusion.training.lora import Lora
from micro_diffusion.training.seeded_random import Draws
from tests.run_folder import CONFIG, make_run, random_backbone
from tests.small_training import ROOT, losses, make_latents, train_here

OBJECTIVE = {key: value for key, value in CONFIG["objective"].items() if key != "_target_"}


def make_model(teacher: Path | None, **changes) -> Distillation:
    settings = {"sampler": EulerSampler(steps=2), "substeps": 2, "noise_bands": [1.0], "cpu_precision": "fp32"}
    objective = EDM(**(OBJECTIVE | changes.pop("objective", {})))
    backbone = changes.pop("backbone", None) or random_backbone(1)
    run = None if teacher is None else str(teacher)
    return Distillation(backbone=backbone, objective=objective, teacher=run, **(settings | changes))


def make_batch(size=4):
    generator = torch.Generator().manual_seed(1)
    return {
        "latents": 0.5 * torch.randn(size, 3, 16, 16, generator=generator),
        "caption_tokens": torch.randn(size, 5, 24, generator=generator),
        "caption_mask": torch.ones(size, 5, dtype=torch.bool),
    }


def drawn(model, size=4):
    return model.draw(make_batch(size), Draws.of(0, size=size))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("teacher") / "run")


def test_the_teacher_is_guided_as_its_own_prompts_say(teacher):
    model, batch = make_model(teacher), make_batch()
    condition = Condition(batch["caption_tokens"], batch["caption_mask"])
    run, sigma = load_run(teacher), torch.tensor([0.1, 1.0, 5.0, 40.0])
    for scale, own in ((2.0, None), (0.0, 0.0), (3.5, 3.5)):
        model = make_model(teacher, guidance_scale=own)
        with torch.no_grad():
            theirs = guided_denoiser(run.objective, run.backbone, condition, scale)(batch["latents"], sigma)
            ours = model._teacher.denoiser(condition, torch.device("cpu"))(batch["latents"], sigma)
        assert torch.equal(ours, theirs)


def test_a_student_begins_as_its_teacher_without_guidance(teacher):
    model, batch = make_model(teacher, guidance_scale=1.0), make_batch()
    condition, sigma = Condition(batch["caption_tokens"], batch["caption_mask"]), torch.tensor([0.1, 1.0, 5.0, 40.0])
    with torch.no_grad():
        student = model.objective.denoiser(model.backbone, condition)(batch["latents"], sigma)
        theirs = model._teacher.denoiser(condition, torch.device("cpu"))(batch["latents"], sigma)
    assert torch.equal(student, theirs)


def test_the_teacher_is_neither_trained_nor_in_checkpoints(teacher):
    model = make_model(teacher)
    before = {key: value.clone() for key, value in model._teacher.network.state_dict().items()}
    weights = {id(weight) for group in model.parameter_groups() for weight in group["parameters"]}
    assert weights == {id(weight) for weight in model.parameters()} == {id(w) for w in model.network.parameters()}
    assert set(model.state_dict()) == {f"network.{key}" for key in model.network.state_dict()}
    model.loss(model(drawn(model)), {}).backward()
    assert all(weight.grad is None for weight in model._teacher.network.parameters())
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    assert all(torch.equal(value, before[key]) for key, value in model._teacher.network.state_dict().items())


def test_beside_an_adapter_the_teacher_is_the_run_itself(teacher):
    pytest.importorskip("peft")
    lora = Lora(rank=2, alpha=2.0, dropout=0.0, targets=["*attention*"], trained_whole=[])
    model = make_model(teacher, adapter=lora)
    assert model._teacher.network.state_dict().keys() == random_backbone(1).state_dict().keys()
    model.loss(model(drawn(model)), {}).backward()
    trained = {name for name, weight in model.network.named_parameters() if weight.grad is not None}
    assert trained and all("lora" in name for name in trained)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradients_come_from_the_student_s_first_answer_alone(teacher, precision):
    """The target is a constant; and autocast's copies of the weights, made for it, must not keep gradients away."""
    model = make_model(teacher, cpu_precision=precision)
    batch = drawn(model)
    outputs = model(batch)
    model.loss(outputs, batch).backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in model.parameters())
    if precision == "bf16":
        return
    place = model.segments.places(torch.special.ndtr(batch["level_normal"]))
    x = batch["latents"] + place.sigma.view(-1, 1, 1, 1) * batch["noise"]
    condition = Condition(batch["caption_tokens"], batch["caption_mask"])
    seen = model.objective.denoiser(model.backbone, condition)(x, place.sigma)
    assert torch.equal(outputs.sigma, place.sigma)
    first = next(model.parameters())
    gradient = first.grad.clone()
    with torch.no_grad():
        student = model.objective.denoiser(model.backbone, condition)
        target = consistent(student, model._teacher.denoiser(condition, torch.device("cpu")), x, place)
    loss = (model.objective.weight(place.sigma) * (seen - target).square().mean(dim=(1, 2, 3))).mean()
    torch.testing.assert_close(loss, outputs.per_sample.mean())
    model.zero_grad()
    loss.backward()
    torch.testing.assert_close(first.grad, gradient)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"sampler": HeunSampler(steps=2)}, "HeunSampler, but its student learns Euler's steps; set sampler=euler"),
        ({"substeps": 0}, r"takes 0 steps in each segment; set model\.substeps to at least 1"),
        ({"guidance_scale": float("nan")}, r"model\.guidance_scale is nan; set it to a number"),
        ({"train_mask_ratio": 0.5}, r"train_mask_ratio is 0\.5 .* takes whole images and captions; set both to 0"),
        ({"caption_drop": 0.1}, r"caption_drop 0\.1, but a distillation takes whole images"),
        ({"objective": {"sigma_data": 0.7}}, "was trained with the objective .* set objective to that of the run"),
        ({"backbone": random_backbone(1, depth=1)}, "ema.safetensors does not fit the network"),
    ],
)
def test_what_does_not_fit_is_one_sentence(teacher, changes, problem):
    with pytest.raises(ValueError, match=problem):
        make_model(teacher, **changes)


def test_there_is_no_student_of_nobody(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no run folder"):
        make_model(tmp_path / "nowhere")
    model = make_model(None)
    with pytest.raises(ValueError, match=r"model\.teacher is null, .* set init_from to its folder"):
        model(drawn(model))
    with pytest.raises(ValueError, match="the number of sampling steps is 0; choose at least 1"):
        EulerSampler(steps=0)


def test_a_stage_without_a_run_to_distil_is_refused_before_anything_is_built():
    register_resolvers()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = compose("quickstart_64_finetune", overrides=["+variant=distill"])
    with pytest.raises(ValueError, match=r"model\.teacher is null, .* set init_from to the folder of a finished run"):
        check_coherence(config)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("distillation")
    make_latents(folder, count=24)
    train_here(folder, "exp_name=teacher", "trainer.max_duration=3ba", "callbacks=monitors")
    return folder


def test_a_run_is_distilled_resumed_exactly_and_generates_in_its_steps(workplace, monkeypatch):
    monkeypatch.syspath_prepend(workplace)
    runs = workplace / "runs"
    command = ["+variant=distill", f"init_from={runs}/teacher", "trainer.max_duration=6ba", "trainer.eval_interval=6ba"]
    train_here(workplace, "exp_name=student", *command)
    told = "+callbacks.kill={_target_: killer.KillAt, step: 2, name: SIGTERM}"
    with pytest.raises(SystemExit):
        train_here(workplace, "exp_name=resumed", *command, told)
    train_here(workplace, "exp_name=resumed", *command)
    assert losses(runs / "resumed") == losses(runs / "student") and len(losses(runs / "student")) == 6
    for file in ("model.safetensors", "ema.safetensors"):
        resumed, whole = load_file(runs / "resumed" / file), load_file(runs / "student" / file)
        assert [key for key in whole if not torch.equal(resumed[key], whole[key])] == []
    assert resumed.keys() == load_file(runs / "teacher" / "ema.safetensors").keys()
    assert OmegaConf.load(runs / "resumed" / "config.yaml").model.teacher == f"{runs}/teacher"

    own = f"{runs}/teacher"
    with pytest.raises(ValueError, match=rf"student was distilled itself, .* set model\.teacher to its teacher, {own}"):
        make_model(runs / "student")

    pipeline = Pipeline.from_run(runs / "student")
    image = pipeline("a large red circle on a white background", seed=0)[0]
    assert image.size == (16, 16)
    assert (image.info["recipe"]["steps"], image.info["recipe"]["guidance_scale"]) == (2, 1)
    assert isinstance(pipeline.tensors.sampler, EulerSampler)
