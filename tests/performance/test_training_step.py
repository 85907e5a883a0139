"""A training step never waits for a value, and keeps no more for its backward pass than is written here."""

import math
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from micro_diffusion.backbone import recomputation
from micro_diffusion.performance.counting import count_saved_bytes
from micro_diffusion.performance.training_step import TrainingStep, activation_bytes, build_model, random_batch
from micro_diffusion.training.config_checks.resolvers import register_resolvers
from micro_diffusion.training.seeded_random import Draws

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SMALL = ["backbone.depth=4", "backbone.mixer_depth=2"]
MASKS = [0.0, 0.75]

register_resolvers()


def config(*overrides):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("256_pretrain", overrides=list(overrides))


@pytest.mark.parametrize("mask_ratio", MASKS)
def test_forward_and_backward_ask_for_no_value(mask_ratio):
    """Tensors on "meta" have none: whatever would make a host wait for its GPU raises an error there."""
    small = config("backbone=nano", *SMALL, f"model.train_mask_ratio={mask_ratio}")
    with torch.device("meta"):
        model = build_model(small).train()
    drawn = model.draw(random_batch(small, 2), Draws.of(0, size=2))
    batch = {key: value.to("meta") for key, value in drawn.items()}
    model.loss(model(batch), batch).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.gpu
@pytest.mark.parametrize("mask_ratio", MASKS)
@pytest.mark.parametrize("choice", ["optimizer=adamw", "optimizer=muon", "model.weight_dtype=bf16"])
def test_a_whole_step_does_not_synchronise(mask_ratio, choice):
    small = config("backbone=nano", *SMALL, f"model.train_mask_ratio={mask_ratio}", choice)
    step = TrainingStep(config=small, batch_size=2, device=torch.device("cuda"), precision="bf16", compile=False)
    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(("mask_ratio", "megabytes"), [(0.0, 253), (0.75, 114)])
def test_what_tiny_keeps_of_an_image(mask_ratio, megabytes):
    """Counted at 256 px in fp32; a change that keeps more must say so here."""
    tiny = config("backbone=tiny", f"model.train_mask_ratio={mask_ratio}")
    assert round(activation_bytes(tiny) / 1e6) == megabytes


@pytest.mark.parametrize(("mask_ratio", "megabytes"), [(0.0, 335), (0.75, 151)])
def test_what_plain_layers_would_keep(mask_ratio, megabytes, monkeypatch):
    monkeypatch.setattr(recomputation, "KEPT_BELOW", math.inf)
    tiny = config("backbone=tiny", f"model.train_mask_ratio={mask_ratio}")
    assert round(activation_bytes(tiny) / 1e6) == megabytes


@pytest.mark.parametrize(("mask_ratio", "megabytes"), [(0.0, 143), (0.75, 64)])
def test_what_tiny_keeps_of_an_image_in_half_precision(mask_ratio, megabytes):
    """The same on a GPU, as it is counted without one."""
    tiny = config("backbone=tiny", f"model.train_mask_ratio={mask_ratio}")
    assert round(activation_bytes(tiny, half=True) / 1e6) == megabytes


@pytest.mark.parametrize(("mask_ratio", "megabytes"), [pytest.param(0.0, 39, marks=pytest.mark.slow), (0.75, 22)])
def test_what_a_few_of_its_blocks_keep_in_bf16_on_a_cpu(mask_ratio, megabytes):
    """Where attention keeps no scores; counted on real tensors, for it looks at their values."""
    few = config("backbone=tiny", *SMALL, f"model.train_mask_ratio={mask_ratio}", "model.cpu_precision=bf16")
    model = build_model(few).train()

    def kept(images):
        batch = model.draw(random_batch(few, images), Draws.of(0, size=images))
        return count_saved_bytes(lambda: model.loss(model(batch), batch), model)

    assert round((kept(2) - kept(1)) / 1e6) == megabytes
