"""Equal compute: counted by hand for Muon, and no run spends a step more or less than its budget."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate

from micro_diffusion.lab.budget import Cost, cost_of, with_length
from micro_diffusion.lab.experiments import composed
from micro_diffusion.performance.training_step import build_model, training_flops

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


def test_the_mask_falls_evenly():
    config = composed(CONFIGS, "mask_falling")
    with torch.device("meta"):
        model = instantiate(config.model, _convert_="all")
    assert [model.mask_ratio(progress) for progress in (0.0, 0.5, 1.0)] == [0.75, 0.375, 0.0]


def test_a_budget_below_a_step_is_refused():
    with pytest.raises(ValueError, match=r"a budget of 10 .* buys no step, which takes 101"):
        Cost(image=10, update=1).steps(10, batch=10)
