"""One resolution of a UNet, on the way down and on the way up.

Legend: B batch, C channels before and C' after, h w cells before, L tokens, D token width, E width of the vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

Run = Callable[..., Tensor]
"""Calls a block with its inputs."""


class Told(NamedTuple):
    """What every block is told. vector: (B, E). tokens: (B, L, D), or None. mask: (B, L) bool, or None for all."""

    vector: Tensor
    tokens: Tensor | None
    mask: Tensor | None


class _Level(nn.Module):
    def __init__(
        self,
        blocks: Sequence[nn.Module],
        resampling: nn.Module,
        *,
        attention: nn.Module | None,
        text_attention: nn.Module | None,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.attention, self.text_attention = attention, text_attention
        self.resampling = resampling

    def _resampled(self, x: Tensor, told: Told, run: Run) -> Tensor:
        """x after attention, at the next resolution."""
        if self.attention is not None:
            x = run(self.attention, x)
        if self.text_attention is not None:
            x = run(self.text_attention, x, told.tokens, told.mask)
        return run(self.resampling, x)


class DownLevel(_Level):
    """Residual blocks, whose results skip to the level's counterpart, attention, and a halving."""

    def forward(self, x: Tensor, told: Told, run: Run) -> tuple[Tensor, list[Tensor]]:
        """x (B, C, h, w) -> (B, C', h', w'), and what skips, (B, C, h, w) each."""
        skips = []
        for block in self.blocks:
            x = run(block, x, told.vector)
            skips.append(x)
        return self._resampled(x, told, run), skips


class UpLevel(_Level):
    """Residual blocks, each of which takes what skipped last, attention, and a doubling."""

    def forward(self, x: Tensor, skips: list[Tensor], told: Told, run: Run) -> Tensor:
        """x (B, C, h, w) -> (B, C', h', w'); takes its skips from the end of the list."""
        for block in self.blocks:
            x = run(block, torch.cat([x, skips.pop()], dim=1), told.vector)
        return self._resampled(x, told, run)


def checkpointed(wanted: bool) -> Run:
    """Calls a block so that only what enters it is kept, where that is wanted and a backward pass will come."""

    def run(block: nn.Module, *inputs: Tensor | None) -> Tensor:
        if wanted and torch.is_grad_enabled():
            from torch.utils.checkpoint import checkpoint  # imports sympy: seconds that generating need not wait for

            # a block draws nothing
            return checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)  # pyright: ignore[reportReturnType]
        return block(*inputs)

    return run
