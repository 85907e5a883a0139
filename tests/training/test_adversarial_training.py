"""Autoencoder and discriminator in one training: who learns from what, and that it resumes exactly."""

from __future__ import annotations

import json
import os
import random
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from composer.core import Callback
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from safetensors.torch import load_file
from torch import Tensor

from micro_diffusion.autoencoder.adversarial import Adversarial
from micro_diffusion.autoencoder.kl import KLAutoencoder
from micro_diffusion.autoencoder.losses import FocalFrequency
from micro_diffusion.autoencoder.patch_discriminator import PatchDiscriminator
from micro_diffusion.data.image.transforms import normalise
from micro_diffusion.data.prepare.convert import convert
from micro_diffusion.data.prepare.engine import Processes
from micro_diffusion.data.prepare.preparation import Preparation
from micro_diffusion.data.sources.shapes import Shapes
from micro_diffusion.training.autoencoder_training import AutoencoderTraining
from micro_diffusion.training.build import build_model, train
from micro_diffusion.training.config_checks.resolvers import register_resolvers
from micro_diffusion.training.seeded_random import Draws
from tests.forked_process import fork, fork_ranks, wait
from tests.small_training import losses

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SEED = int(os.environ.get("KILL_SEED", "18"))
STEPS, FIRST_LESSON, START = 8, 2, 4


# ------------------------------------------------------------------------------------------------ the loss of a step


def build(**changes: Any) -> AutoencoderTraining:
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(width=8, layers=1, groups=4)
    game = {"discriminator": discriminator, "start": START, "lead": START - FIRST_LESSON, **changes.pop("game", {})}
    settings: dict[str, Any] = {"kl_weight": 0.01, "crop": 16, "shrink": [1], "cpu_precision": "fp32", **changes}
    autoencoder = KLAutoencoder(width=8, decoder_blocks=1, tanh=True)
    for parameter in autoencoder.parameters():  # some begin as zeros, through which no gradient passes
        parameter.data += 0.05 * torch.randn_like(parameter)
    return AutoencoderTraining(autoencoder=autoencoder, adversarial=Adversarial(**game), **settings)


def drawn(model: AutoencoderTraining, step: int, count: int = 4) -> dict[str, Any]:
    images = torch.randint(256, (count, 3, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return model.draw({"images": images}, Draws.of(0, size=count, step=step))


def gradients(model: AutoencoderTraining, loss: Tensor) -> dict[str, Tensor]:
    """Of all parameters; zeros where there is none."""
    model.zero_grad()
    loss.backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("adaptive", [True, False])
def test_each_network_learns_from_its_own_loss_alone(adaptive: bool):
    """The gradient of the sum is, in either network, that of its own terms with the other one left out."""
    model = build(game={"adaptive": adaptive})
    assert model.adversarial is not None
    batch = drawn(model, START)
    together = gradients(model, model.loss(model(batch), batch)["total"])
    originals = normalise(batch["images"])
    made = model(batch).images.detach()
    theirs = gradients(model, model.adversarial.judge(made, originals).loss)
    outputs = model(batch)
    terms = model.loss(outputs, batch)
    model.adversarial.requires_grad_(False)
    ours = (
        terms["l1"]
        + 0.01 * terms["kl"]
        + terms["adversarial_weight"] * -model.adversarial.discriminator(outputs.images).mean()
    )
    own = gradients(model, ours)
    for name, gradient in together.items():
        player, other = (theirs, own) if name.startswith("adversarial.") else (own, theirs)
        assert not other[name].any(), name
        assert player[name].any(), name
        torch.testing.assert_close(gradient, player[name], atol=1e-7, rtol=1e-4, msg=name)


def test_the_adaptive_weight_makes_the_pulls_at_the_last_layer_equal():
    model = build(game={"weight": 1.0})
    batch = drawn(model, START)
    terms = model.loss(model(batch), batch)
    layer = model.autoencoder.last_layer
    pulls = [
        torch.autograd.grad(term, layer, retain_graph=True)[0].norm()
        for term in (terms["l1"], terms["adversarial_weight"] * terms["adversarial"])
    ]
    torch.testing.assert_close(pulls[0], pulls[1], rtol=1e-2, atol=0)


@pytest.mark.parametrize(
    ("step", "extra"),
    [
        (FIRST_LESSON - 1, set()),
        (FIRST_LESSON, {"discriminator", "logits_real", "logits_fake"}),
        (START, {"discriminator", "logits_real", "logits_fake", "adversarial", "adversarial_weight"}),
    ],
)
def test_the_discriminator_learns_first_and_is_felt_from_the_start_on(step: int, extra: set[str]):
    model = build()
    batch = drawn(model, step)
    terms = model.loss(model(batch), batch)
    assert terms.keys() == {"total", "l1", "kl"} | extra
    found = gradients(model, terms["total"])
    learns = any(gradient.any() for name, gradient in found.items() if name.startswith("adversarial."))
    assert learns == (step >= FIRST_LESSON)
    assert all(p.grad is not None for p in model.parameters()), "several ranks wait for all gradients"


def test_microbatches_add_up_to_the_batch():
    model = build(frequency=FocalFrequency(), train_log_variance=True, game={"adaptive": False})
    batch = drawn(model, START)
    parts = [{key: value[half : half + 2] for key, value in batch.items()} for half in (0, 2)]
    whole = gradients(model, model.loss(model(batch), batch)["total"])
    summed = [gradients(model, model.loss(model(part), part)["total"]) for part in parts]
    for name, gradient in whole.items():
        torch.testing.assert_close(gradient, (summed[0][name] + summed[1][name]) / 2, atol=1e-6, rtol=1e-4, msg=name)


def test_the_log_variance_weighs_the_error():
    model = build(log_variance=0.5, train_log_variance=True, reconstruction="l2")
    batch = drawn(model, 0)
    terms = model.loss(model(batch), batch)
    torch.testing.assert_close(terms["total"], terms["l2"] / torch.tensor(0.5).exp() + 0.5 + 0.01 * terms["kl"])
    terms["total"].backward()
    assert isinstance(model.log_variance, torch.nn.Parameter) and model.log_variance.grad is not None
    torch.testing.assert_close(model.log_variance.grad, 1 - terms["l2"] / torch.tensor(0.5).exp())


def test_every_parameter_is_in_one_group_and_the_discriminator_has_its_own_rate():
    model = build(train_log_variance=True, game={"lr_scale": 0.25})
    groups = model.parameter_groups()
    grouped = [id(p) for group in groups for p in group["parameters"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    scales = {group["name"]: (group["lr_scale"], group["decay"]) for group in groups}
    assert scales == {
        "kernels": (1.0, True),
        "biases": (1.0, False),
        "discriminator_kernels": (0.25, False),
        "discriminator_biases": (0.25, False),
        "log_variance": (1.0, False),
    }


def test_a_crop_beyond_the_image_is_an_error():
    with pytest.raises(ValueError, match="crop is 32, but an image has 16×16 pixels; set model.crop to at most 16"):
        drawn(build(crop=32), 0)


def test_a_crop_below_the_patch_of_the_discriminator_is_an_error():
    with pytest.raises(ValueError, match="crops of 4 pixels, shrunk by 4, are too small for the discriminator, which"):
        drawn(build(shrink=[4]), 0)


# --------------------------------------------------------------------------------------------------- whole trainings


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("adversarial")
    source = Shapes(seed=0, count=12, resolution=16)
    convert(source=source, out=folder / "images", preparation=Preparation(), engine=Processes(count=1))
    return folder


def configured(workplace: Path, name: str, *overrides: str, stage: str = "ldm_vae_gan") -> DictConfig:
    register_resolvers()
    small = [
        *(f"output_dir={workplace}/runs", f"exp_name={name}", "init_from=null", "resolution=16", "machine=cpu"),
        *(f"{part}_loader.paths=[{workplace}/images]" for part in ("train", "eval")),
        *("train_loader.batch_size=4", "autoencoder.width=8", "algorithms.ema.start=2ba", "model.cpu_precision=fp32"),
        *(f"trainer.max_duration={STEPS}ba", "trainer.save_interval=2ba", "trainer.eval_interval=4ba"),
        *("+rfid@model.rfid=inception", "model.rfid.network=random_conv"),
    ]
    if stage == "ldm_vae_gan":
        small += [f"model.adversarial.{key}" for key in (f"start={START}", f"lead={START - FIRST_LESSON}")]
        small += [f"model.adversarial.discriminator.{key}" for key in ("width=8", "layers=1")]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(stage, overrides=[*small, *overrides])


class KillAt(Callback):
    """SIGKILL to its own process at an event, the first time that so many steps are done."""

    def __init__(self, event: str, step: int) -> None:
        self.event, self.step = event, step

    def run_event(self, event, state, logger) -> None:
        if event.value == self.event and state.timestamp.batch >= self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def killed(workplace: Path, name: str, event: str, step: int, seconds: float = 100) -> None:
    node = f"{{_target_: {__name__}.KillAt, event: {event}, step: {step}}}"
    config = configured(workplace, name, f"+callbacks.kill={node}")
    assert wait([fork(partial(train, config), workplace / "log")], seconds=seconds) == [-signal.SIGKILL]


def logged(run: Path) -> list[tuple[int, str, str]]:
    """All numbers but times, as text, since nan is not itself."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    numbers = [(line["step"], name, str(value)) for line in lines for name, value in line.items() if name != "step"]
    return sorted(number for number in numbers if not number[1].startswith("time/"))


def assert_same(run: Path, whole: Path) -> None:
    assert logged(run) == logged(whole) and sorted(losses(run)) == list(range(STEPS))
    for file in ("model.safetensors", "ema.safetensors", "autoencoder/model.safetensors"):
        resumed, uninterrupted = load_file(run / file), load_file(whole / file)
        assert [key for key in uninterrupted if not torch.equal(resumed[key], uninterrupted[key])] == [], file
    ours, theirs = last_checkpoint(run), last_checkpoint(whole)
    differing = [key for key, value in theirs["model"].items() if not torch.equal(value, ours["model"][key])]
    assert differing == [] and any(key.startswith("adversarial.discriminator") for key in theirs["model"])
    moments = [content["optimizers"]["AdamW"]["state"] for content in (ours, theirs)]
    assert moments[0].keys() == moments[1].keys()
    for number, state in moments[0].items():
        assert all(torch.equal(value, moments[1][number][key]) for key, value in state.items()), number


def last_checkpoint(run: Path) -> dict[str, Any]:
    return torch.load(run / "checkpoints" / "latest-rank0.pt", weights_only=False)["state"]


@pytest.fixture(scope="module")
def whole(workplace) -> Path:
    """A run from start to end, in a process of its own."""
    work = partial(train, configured(workplace, "whole"))
    assert wait([fork(work, workplace / "log")], seconds=100) == [0], (workplace / "log").read_text()[-3000:]
    return workplace / "runs" / "whole"


def test_a_run_shows_what_it_does_and_exports_the_autoencoder_alone(whole):
    names = {name for _, name, _ in logged(whole)}
    assert {
        f"loss/train/{name}" for name in ("l1", "kl", "discriminator", "adversarial", "adversarial_weight")
    } <= names
    assert {f"metrics/eval/{name}" for name in ("psnr", "ssim", "kl", "rfid", "latent_std_3")} <= names
    rates = {float(value) for step, name, value in logged(whole) if step == 3 and name.startswith("lr-")}
    assert len(rates) == 2 and max(rates) == pytest.approx(10 * min(rates))
    for file in ("model.safetensors", "ema.safetensors", "autoencoder/model.safetensors"):
        assert load_file(whole / file).keys() == KLAutoencoder(width=8).state_dict().keys()
    average = next(state for name, state in last_checkpoint(whole)["algorithms"] if name == "EMA")["average"]
    assert average.keys() == dict(KLAutoencoder(width=8).named_parameters()).keys()
    autoencoder = KLAutoencoder.load(whole / "autoencoder", channels=4, downsampling=4)
    assert autoencoder.tanh
    measured = json.loads((whole / "autoencoder" / "latents.json").read_text())
    assert measured["mean"] == autoencoder.shift.tolist() and measured["weights"] == "ema"


def test_the_discriminator_keeps_its_first_weights_until_it_learns(workplace):
    config = configured(
        workplace, "early", f"trainer.max_duration={START + 1}ba", "trainer.save_num_checkpoints_to_keep=-1"
    )
    train(config)
    first = build_model(config).state_dict()
    found = {}
    for path in (workplace / "runs" / "early" / "checkpoints").glob("ep*.pt"):
        content = torch.load(path, weights_only=False)["state"]
        found[content["timestamp"]["Timestamp"]["batch"]] = content["model"]
    names = [name for name in first if name.startswith("adversarial.") and first[name].ndim > 1]
    assert names and all(torch.equal(found[FIRST_LESSON][name], first[name]) for name in names)
    assert not any(torch.equal(found[4][name], first[name]) for name in names)


def test_a_killed_run_goes_on_as_if_nothing_had_happened(workplace, whole):
    """Before the first lesson, in the middle of a step of both, and in an evaluation."""
    for event, step in (("after_loss", 1), ("after_backward", 5), ("eval_batch_end", 8)):
        killed(workplace, "killed", event, step)
    train(configured(workplace, "killed"))
    assert_same(workplace / "runs" / "killed", whole)


@pytest.mark.slow
def test_twenty_kills_change_nothing(workplace, whole):
    chance = random.Random(f"{SEED}/adversarial")
    events = ("after_loss", "after_backward", "batch_end", "eval_batch_end", "batch_checkpoint", "epoch_end")
    kills = sorted((chance.randrange(STEPS), chance.choice(events)) for _ in range(20))
    print(f"KILL_SEED={SEED}: {kills}")
    for step, event in kills:
        killed(workplace, "killed_often", event, step)
    train(configured(workplace, "killed_often"))
    assert_same(workplace / "runs" / "killed_often", whole)


def on_ranks(workplace: Path, name: str, *overrides: str, ranks: int) -> dict[int, float]:
    """The losses of a run on so many ranks."""

    def work(rank: int) -> None:
        train(configured(workplace, name, *overrides))

    children = fork_ranks(work, [workplace / f"log{rank}" for rank in range(ranks)])
    assert wait(children, seconds=200, together=True) == [0] * ranks, (workplace / "log0").read_text()[-3000:]
    return losses(workplace / "runs" / name)


def test_two_ranks_and_microbatches_train_as_one_does(workplace):
    """But for the adaptive weight, which is each microbatch's own."""
    fixed = "model.adversarial.adaptive=false"
    one = on_ranks(workplace, "one", fixed, ranks=1)
    two = on_ranks(workplace, "two", fixed, "trainer.device_train_microbatch_size=1", ranks=2)
    assert len(one) == STEPS
    assert two == pytest.approx(one, rel=2e-3)


# ------------------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize("duration", [f"{STEPS}ba", "1ep"])
def test_a_discriminator_that_starts_after_the_end_is_an_error(workplace, duration):
    with pytest.raises(
        ValueError, match=r"model.adversarial.start is 8, but training ends after \d steps; start earlier"
    ):
        train(configured(workplace, "late", "model.adversarial.start=8", f"trainer.max_duration={duration}"))


def test_missing_weights_of_lpips_are_an_error_before_the_first_step(workplace):
    weights = f"model.perceptual.path={workplace}/nowhere.pth"
    with pytest.raises(
        FileNotFoundError, match="there are no LPIPS weights at .*/nowhere.pth; put torchvision's vgg16"
    ):
        train(configured(workplace, "blind", "+perceptual@model.perceptual=lpips", weights))


def test_a_reconstruction_that_is_not_finite_is_an_error():
    model = build()
    batch = drawn(model, START)
    outputs = model(batch)
    with pytest.raises(FloatingPointError, match="the adversarial weight is not finite"):
        model.loss(outputs._replace(images=outputs.images * torch.nan), batch)
