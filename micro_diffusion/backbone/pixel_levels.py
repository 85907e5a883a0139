"""The levels of the UNet for pixels: what happens at one resolution, on the way down and on the way up.

Legend: B batch, C channels, h w cells, L context rows, D context width, E width of the level's vector.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Level(nn.Module):
    """A block that may attend to the context, further blocks, self-attention, and a change of resolution.

    Args:
        first: a residual block.
        blocks: further ones.
        attention: blocks of self-attention.
        resampling: changes the resolution.
        recompute: keep only what enters each part for the backward pass, which computes it again.
    """

    def __init__(
        self,
        *,
        first: nn.Module,
        blocks: Sequence[nn.Module],
        attention: Sequence[nn.Module],
        resampling: nn.Module,
        recompute: bool,
    ) -> None:
        super().__init__()
        self.first, self.blocks = first, nn.ModuleList(blocks)
        self.attention, self.resampling = nn.ModuleList(attention), resampling
        self.recompute = recompute

    def _attend(self, x: Tensor, context: Tensor) -> Tensor:
        for block in self.attention:
            x = run(block, x, context, recompute=self.recompute)
        return x


class DownLevel(Level):
    """On the way down. resample_first: change the resolution before the blocks rather than after."""

    def __init__(self, *, resample_first: bool, **parts) -> None:
        super().__init__(**parts)
        self.resample_first = resample_first

    def forward(self, x: Tensor, vector: Tensor, context: Tensor) -> tuple[Tensor, list[Tensor]]:
        """x (B, C, h, w), vector (B, E), context (B, L, D) -> the next level's x, and what skips to the way up."""
        x = self.resampling(x) if self.resample_first else x
        x = run(self.first, x, vector, context, recompute=self.recompute)
        skips = []
        for block in self.blocks:
            x = run(block, x, vector, context, recompute=self.recompute)
            skips.append(x)
        x = self._attend(x, context)
        return x if self.resample_first else self.resampling(x), [*skips, x]


class UpLevel(Level):
    """On the way up."""

    def forward(self, x: Tensor, skips: Sequence[Tensor], vector: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, C, h, w), skips of the level in the order of the way down -> the next level's x, and that before."""
        for block, skip in zip((self.first, *self.blocks), reversed(skips), strict=True):
            x = run(block, torch.cat([x, skip], dim=1), vector, context, recompute=self.recompute)
        x = self._attend(x, context)
        return self.resampling(x), x


def run(block: nn.Module, *inputs: Tensor, recompute: bool) -> Tensor:
    """One block, checkpointed where that was asked for and a backward pass will come."""
    if recompute and torch.is_grad_enabled():
        from torch.utils.checkpoint import checkpoint  # imports sympy: seconds that generating need not wait for

        return checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)  # pyright: ignore[reportReturnType]
    return block(*inputs)
