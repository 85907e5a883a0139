"""Bounds of the numbers that all optimizers take; outside of them a training runs to its end and learns nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence


def check_hyperparameters(*, betas: Sequence[float], eps: float, weight_decay: float) -> None:
    """Check an optimizer's settings.

    Args:
        betas: decay of the first and second moments, each in [0, 1).
        eps: 0 or more.
        weight_decay: 0 or more.

    Raises:
        ValueError: for the first that is out of its bounds.
    """
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"optimizer.betas is {list(betas)}; set it to two numbers that are at least 0 and below 1")
    for name, value in (("eps", eps), ("weight_decay", weight_decay)):
        if not 0 <= value < math.inf:
            raise ValueError(f"optimizer.{name} is {value}; set it to a finite number of at least 0")
