"""Shapes of the blocks of a network: widths that grow with depth, and which blocks are mixtures of experts.

Layer-wise scaling is that of Mehta et al. 2024, "OpenELM", arXiv 2404.14619, as Sehwag et al. 2024, arXiv 2407.15811,
apply it to diffusion transformers.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from micro_diffusion.backbone.block import BlockShape, Norm


@dataclass(frozen=True, kw_only=True)
class BlockShapes:
    """What all blocks of a network have in common.

    conditioning_dim: width of the vector that modulates them. head_dim: width of an attention head.
    multiple_of: hidden widths are rounded up to a multiple of it.
    experts, expert_capacity, experts_every: experts of a sparse block, how many take a token on average, and every how
        many blocks one is sparse. eps: of every LayerNorm.
    unmodulated_router, shared_modulation, norm: see `BlockShape`.
    """

    conditioning_dim: int
    head_dim: int
    multiple_of: int
    experts: int
    expert_capacity: float
    experts_every: int
    eps: float
    unmodulated_router: bool = False
    shared_modulation: bool = False
    norm: Norm = "layer"

    def of(
        self,
        index: int,
        width: int,
        qkv_ratio: float,
        mlp_ratio: float,
        *,
        convolution: bool = False,
        value_residual: bool = False,
        may_be_sparse: bool = True,
    ) -> BlockShape:
        """The shape of the block at a place in its stack, counted from 0, whose model width is `width`."""
        sparse = may_be_sparse and self.experts > 0 and (index + 1) % self.experts_every == 0
        hidden = mlp_ratio * width if sparse else 2 * mlp_ratio * width / 3  # SwiGLU has three matrices, not two
        return BlockShape(
            dim=width,
            conditioning_dim=self.conditioning_dim,
            attention_dim=round_up(qkv_ratio * width, 2 * self.head_dim if qkv_ratio < 1 else self.head_dim),
            hidden=round_up(hidden, self.multiple_of),
            head_dim=self.head_dim,
            experts=self.experts if sparse else 0,
            expert_capacity=self.expert_capacity,
            unmodulated_router=self.unmodulated_router,
            shared_modulation=self.shared_modulation,
            value_residual=value_residual,
            norm=self.norm,
            convolution=convolution,
            eps=self.eps,
        )

    def check(self, *, dim: int, mixer_dim: int, depth: int, mixer_depth: int) -> None:
        """Raise ValueError for widths that do not divide into heads; warn of experts that no block gets."""
        if self.experts and self.experts_every > max(mixer_depth, depth - 1):
            warnings.warn(
                f"experts={self.experts} has no effect, since with experts_every={self.experts_every}, depth={depth} "
                f"and mixer_depth={mixer_depth} no block is sparse; lower experts_every, or set experts=0",
                stacklevel=3,
            )
        for width, name in ((dim, "dim"), (mixer_dim, "mixer_dim")):
            if width % self.head_dim:
                raise ValueError(f"{name}={width} is no multiple of head_dim={self.head_dim}; choose a multiple")


def round_up(value: float, multiple: int) -> int:
    """The smallest multiple that is no less than the whole part of value."""
    return math.ceil(int(value) / multiple) * multiple


def over_depth(ratios: Sequence[float], depth: int, name: str) -> list[float]:
    """Two values are spread evenly over depth; otherwise there is one for each block."""
    if len(ratios) == 2:
        first, last = ratios
        return [first + (last - first) * i / max(depth - 1, 1) for i in range(depth)]
    if len(ratios) != depth:
        raise ValueError(f"{name} has {len(ratios)} values for {depth} blocks; give two, or one for each block")
    return list(ratios)
