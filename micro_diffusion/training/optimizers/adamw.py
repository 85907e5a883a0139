"""AdamW over the parameter groups of a model (Loshchilov & Hutter 2019)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.optim import AdamW, Optimizer

from micro_diffusion.backbone.backbone import ParameterGroup
from micro_diffusion.bounds import NonNegativeFloat, PositiveFloat
from micro_diffusion.training.optimizers.compact_adamw import CompactAdamW
from micro_diffusion.training.optimizers.hyperparameters import Betas, optimizer_groups


def adamw(
    groups: Sequence[ParameterGroup],
    *,
    lr: NonNegativeFloat,
    betas: Betas,
    eps: PositiveFloat,
    weight_decay: NonNegativeFloat,
) -> Optimizer:
    """AdamW whose learning rate and weight decay follow what the groups say of themselves; compact for bf16 matrices.

    Args:
        groups: every trainable parameter, once.
        lr: base learning rate, times the group's lr_scale.
        betas: decay of the first and second moments.
        eps: added to the root of the second moment.
        weight_decay: decoupled, times lr; only where the group decays.
    """
    if any(parameter.dtype == torch.bfloat16 for group in groups for parameter in group["parameters"]):
        return CompactAdamW(groups, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
    return AdamW(
        optimizer_groups(groups, lr=lr, weight_decay=weight_decay),
        betas=(betas[0], betas[1]),
        eps=eps,
        fused=True,
    )
