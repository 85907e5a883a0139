"""AdamW whose moments take one byte a number (Dettmers et al. 2022, arXiv 2110.02861), through the library torchao."""

from __future__ import annotations

from collections.abc import Sequence

from torch.optim import Optimizer

from micro_diffusion.backbone.backbone import ParameterGroup
from micro_diffusion.bounds import NonNegativeFloat, PositiveFloat
from micro_diffusion.training.optimizers.hyperparameters import Betas, optimizer_groups


def adamw_8bit(
    groups: Sequence[ParameterGroup],
    *,
    lr: NonNegativeFloat,
    betas: Betas,
    eps: PositiveFloat,
    weight_decay: NonNegativeFloat,
) -> Optimizer:
    """AdamW with quantised moments, which takes 6 bytes a number of weights in bf16, gradient and moments together.

    Args:
        groups: every trainable parameter, once.
        lr: base learning rate, times the group's lr_scale.
        betas: decay of the first and second moments.
        eps: added to the root of the second moment.
        weight_decay: decoupled, times lr; only where the group decays.

    Raises:
        ValueError: without torchao.
    """
    try:
        from micro_diffusion.training.optimizers.quantised_adamw import QuantisedAdamW
    except ImportError as error:
        raise ValueError(
            f"optimizer=adamw_8bit needs the library torchao, which is not installed ({error}); "
            "pip install 'micro_diffusion[finetune]', or set optimizer=adamw"
        ) from error
    return QuantisedAdamW(
        optimizer_groups(groups, lr=lr, weight_decay=weight_decay), betas=(betas[0], betas[1]), eps=eps
    )
