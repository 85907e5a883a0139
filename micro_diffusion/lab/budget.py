"""Equal compute: how many steps a number of floating-point operations buys.

Counted are the matrix products and convolutions of forward pass, backward pass and optimizer step, as `plan` does.
"""

from __future__ import annotations

import statistics
from typing import NamedTuple

from omegaconf import DictConfig, OmegaConf

from micro_diffusion.performance.training_step import training_flops, update_flops

MOMENTS = 8
"""Of a training that changes as it goes, whose costs are counted."""


class Cost(NamedTuple):
    """Floating-point operations of a training. image: of forward and backward, for each. update: of each step."""

    image: float
    update: float

    def step(self, batch: int) -> float:
        """Of a step with a batch of so many images."""
        return batch * self.image + self.update

    def steps(self, budget: float, batch: int) -> int:
        """The whole steps that come nearest to a budget.

        Raises:
            ValueError: when it buys none.
        """
        steps = round(budget / self.step(batch))
        if steps < 1:
            raise ValueError(
                f"a budget of {budget:.3g} floating-point operations buys no step, which takes {self.step(batch):.3g}; "
                "raise it"
            )
        return steps


def cost_of(config: DictConfig) -> Cost:
    """Counted on tensors without data; the mean over the training where the share of masked patches changes."""
    moments = [0.0] if config.model.get("final_mask_ratio") is None else [(i + 0.5) / MOMENTS for i in range(MOMENTS)]
    images = [training_flops(config, recomputed=True, progress=moment) for moment in moments]
    return Cost(statistics.fmean(images), update_flops(config))


def with_length(config: DictConfig, budget: float) -> tuple[DictConfig, Cost]:
    """The training of the length that a budget buys, and what it costs."""
    cost = cost_of(config)
    steps = cost.steps(budget, config.train_loader.batch_size)
    longer: DictConfig = OmegaConf.merge(config, {"trainer": {"max_duration": f"{steps}ba"}})  # pyright: ignore[reportAssignmentType]
    return longer, cost
