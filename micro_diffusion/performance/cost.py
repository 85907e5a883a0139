"""What a whole training costs, and how many steps a number of floating-point operations buys.

Counted are the matrix products and convolutions of forward pass, backward pass and optimizer step.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

from omegaconf import DictConfig

from micro_diffusion.performance.training_step import training_flops, update_flops

MOMENTS = 8
"""At which a share of masked patches that falls is counted."""


class Cost(NamedTuple):
    """Floating-point operations of a training. image: of forward and backward, for each. update: of each step."""

    image: float
    update: float

    def step(self, batch: int) -> float:
        """Of a step with a batch of so many images."""
        return batch * self.image + self.update

    def of_an_image(self, batch: int) -> float:
        """Of an image with its share of the update, which the devices of a training share among them."""
        return self.step(batch) / batch

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
    """Counted on tensors without data; the mean over the training where its steps change."""
    image = sum(share * training_flops(config, recomputed=True, progress=moment) for share, moment in moments(config))
    return Cost(image, update_flops(config))


def moments(config: DictConfig) -> list[tuple[float, float]]:
    """Shares of a training, and for each a moment whose steps cost as all of its steps do on average.

    A loss that ends (`until`) divides it; a share of masked patches that falls is taken at several moments.
    """
    losses = [loss for loss in (config.model.get("auxiliary") or {}).values() if loss is not None]
    ends = sorted({0.0, 1.0, *(float(loss.get("until", 1.0)) for loss in losses)})
    pieces = 1 if config.model.get("final_mask_ratio") is None else MOMENTS
    return [
        ((end - start) / pieces, start + (end - start) * (i + 0.5) / pieces)
        for start, end in itertools.pairwise(ends)
        for i in range(pieces)
    ]
