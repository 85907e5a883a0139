"""What all optimizers take: decays and parameter groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from micro_diffusion.backbone.backbone import ParameterGroup
from micro_diffusion.bounds import FractionBelow1

Betas = tuple[FractionBelow1, FractionBelow1]
"""Decay of Adam's first and second moments."""


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
