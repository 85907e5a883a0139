"""Equal compute: counted by hand for Muon, and no run spends a step more or less than its budget."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from micro_diffusion.checkpoint import write_config
from micro_diffusion.lab.experiments import composed
from micro_diffusion.lab.planning import with_length
from micro_diffusion.performance.cost import Cost, cost_of, moments
from micro_diffusion.performance.counting import count_flops
from micro_diffusion.performance.training_step import build_model, training_flops
from micro_diffusion.training.config_checks.resolvers import register_resolvers

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.mark.parametrize("name", ["base", "batch_16", "route"])
def test_runs_cost_their_budget(name: str):
    config, cost = with_length(composed(CONFIGS, name), 1e12)
    steps, batch = int(config.trainer.max_duration.removesuffix("ba")), config.train_loader.batch_size
    assert cost.image == training_flops(config)
    assert steps * (batch * cost.image + cost.update) == pytest.approx(1e12, abs=cost.step(batch) / 2)


def test_the_step_of_muon_is_counted():
    """Three iterations of x·xᵀ, its square, and the product with x: 2m²n + 2m³ + 2m²n for sides m <= n."""
    config = composed(CONFIGS, "base")
    with torch.device("meta"):
        groups = build_model(config).parameter_groups()
    matrices = [p for group in groups if group["matrices"] for p in group["parameters"]]
    expected = 0
    for matrix in matrices:
        m, n = sorted(matrix.shape[-2:])
        expected += 3 * (4 * m * m * n + 2 * m**3) * (matrix.shape[0] if matrix.ndim == 3 else 1)
    assert cost_of(config).update == expected
    assert cost_of(composed(CONFIGS, "adamw")).update == 0


def test_a_falling_mask_costs_what_lies_between():
    def costs(ratio, final="null"):
        changes = [f"model.train_mask_ratio={ratio}", f"+model.final_mask_ratio={final}"]
        return cost_of(composed(CONFIGS, "base", changes)).image

    assert costs(0.75) < costs(0.75, 0.0) < costs(0.0)
    assert costs(0.75, 0.0) == pytest.approx((costs(0.75) + costs(0.0)) / 2, rel=0.03)


@pytest.fixture
def representation(tmp_path: Path) -> str:
    """A run folder of an encoder, of which counting reads no more than what it is."""
    register_resolvers()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        write_config(tmp_path, OmegaConf.to_container(compose("train_representation"), resolve=True))  # pyright: ignore
    return str(tmp_path)


def test_further_losses_are_counted_while_they_last(representation: str):
    """By hand for REPA: the encoder's forward pass, and the head's, whose backward pass is twice as much."""
    run = f"model.auxiliary.repa.encoder.run={representation}"
    base, whole, half = (
        cost_of(composed(CONFIGS, name, [run] if name != "base" else [])) for name in ("base", "repa", "repa_half")
    )
    config = composed(CONFIGS, "repa", [run])
    with torch.device("meta"):
        model: Any = build_model(config)
        (loss,) = model.auxiliary.losses
        latents = torch.empty(1, 4, 16, 16)
        encoder = count_flops(lambda: loss.encoder.features(latents, (8, 8)))
    head = sum(2 * layer.weight.numel() for layer in loss.head if hasattr(layer, "weight"))
    assert whole.image - base.image == encoder + 3 * 64 * head
    assert half.image - base.image == pytest.approx((whole.image - base.image) / 2, rel=1e-9)
    assert whole.update == base.update
    run = f"model.auxiliary.perceptual.distance.encoder.run={representation}"
    look = cost_of(composed(CONFIGS, "perceptual_x0", [run]))
    assert look.image - base.image > 2 * encoder  # of both images, and back through one of them


def test_what_is_denoised_with_the_image_is_counted(representation: str):
    """The encoder's forward pass, and more than the token's way into the transformer and out of it, and back."""
    config = composed(CONFIGS, "reg", [f"model.entangled.encoder.run={representation}"])
    with torch.device("meta"):
        model: Any = build_model(config)
        encoder = count_flops(lambda: model.entangled(torch.empty(1, 4, 16, 16), (8, 8)))
    ways = 2 * 2 * config.backbone.class_token * config.backbone.dim
    assert training_flops(config) - training_flops(composed(CONFIGS, "base")) > encoder + 2 * ways


def test_an_encoder_that_was_not_trained_is_one_sentence(tmp_path: Path):
    config = composed(CONFIGS, "repa", [f"model.auxiliary.repa.encoder.run={tmp_path}/nothing"])
    with pytest.raises(Exception, match="no run folder .*nothing of a representation; train one with `composer"):
        cost_of(config)


def test_moments_divide_a_training():
    def config(**model):
        return OmegaConf.create({"model": model})

    losses = {"a": {"until": 0.25}, "b": None, "c": {"weight": 1.0}}
    assert moments(config(auxiliary=losses)) == [(0.25, 0.125), (0.75, 0.625)]
    assert moments(config()) == [(1.0, 0.5)]
    assert sum(share for share, _ in moments(config(auxiliary=losses, final_mask_ratio=0.0))) == pytest.approx(1)


def test_the_mask_falls_evenly():
    config = composed(CONFIGS, "mask_falling")
    with torch.device("meta"):
        model = instantiate(config.model, _convert_="all")
    assert [model.mask_ratio(progress) for progress in (0.0, 0.5, 1.0)] == [0.75, 0.375, 0.0]


def test_a_budget_below_a_step_is_refused():
    with pytest.raises(ValueError, match=r"a budget of 10 .* buys no step, which takes 101"):
        Cost(image=10, update=1).steps(10, batch=10)
