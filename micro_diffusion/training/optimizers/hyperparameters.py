"""What all optimizers take: numbers, with bounds outside of which a training learns nothing, and parameter groups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from micro_diffusion.backbone.backbone import ParameterGroup


def check_hyperparameters(*, betas: Sequence[float], eps: float, weight_decay: float) -> None:
    """Check an optimizer's settings.

    Args:
        betas: decay of the first and second moments, each in [0, 1).
        eps: above 0, or a weight without a gradient would become no number.
        weight_decay: 0 or more.

    Raises:
        ValueError: for the first that is out of its bounds.
    """
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"optimizer.betas is {list(betas)}; set it to two numbers that are at least 0 and below 1")
    if not 0 < eps < math.inf:
        raise ValueError(f"optimizer.eps is {eps}; set it to a finite number above 0")
    if not 0 <= weight_decay < math.inf:
        raise ValueError(f"optimizer.weight_decay is {weight_decay}; set it to a finite number of at least 0")


def optimizer_groups(groups: Sequence[ParameterGroup], *, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """A model's parameter groups as torch's optimizers take them.

    Args:
        groups: every trainable parameter, once.
        lr: base learning rate, times the group's lr_scale.
        weight_decay: only where the group decays.
    """
    return [
        {
            "params": group["parameters"],
            "name": group["name"],
            "lr": lr * group["lr_scale"],
            "weight_decay": weight_decay if group["decay"] else 0.0,
        }
        for group in groups
    ]
