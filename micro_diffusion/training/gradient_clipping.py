"""Gradient clipping by the norm of all gradients together (Pascanu et al. 2013).

Own code rather than Composer's algorithm: that one, in 0.32, leaves the gradients as they are when FSDP2 shards them.
"""

from __future__ import annotations

import torch
from composer import Algorithm, Event, Logger, State


class GradientClipping(Algorithm):
    """Scales the gradients down where their norm over all parameters, on all ranks, exceeds a threshold.

    Args:
        clipping_threshold: the largest norm, above 0.

    Raises:
        ValueError: for a threshold that is not above 0.
    """

    def __init__(self, *, clipping_threshold: float) -> None:
        if not clipping_threshold > 0:
            raise ValueError(
                f"algorithms.gradient_clipping.clipping_threshold is {clipping_threshold}; set it above 0, or leave "
                "clipping out with ~algorithms.gradient_clipping"
            )
        self.clipping_threshold = clipping_threshold

    def match(self, event: Event, state: State) -> bool:
        """Runs when a batch's gradients are complete."""
        return event == Event.AFTER_TRAIN_BATCH

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        """Clip."""
        torch.nn.utils.clip_grad_norm_(state.model.parameters(), max_norm=self.clipping_threshold)
