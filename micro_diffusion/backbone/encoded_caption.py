"""What the transformer makes of conditions, and of noise levels that are known beforehand, before it sees latents.

Legend: B batch, L caption tokens, T patches, D width, S noise levels, c the conditioning vector (noise level and pooled
caption).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from micro_diffusion.backbone.attention import KeysValues
from micro_diffusion.backbone.block import Modulation


class Conditioning(NamedTuple):
    """What blocks and last layer are told of noise level and pooled caption.

    mixer, blocks: for each block the c that it takes, or the modulation that follows from it. final: (B, 2·D).
    """

    mixer: Sequence[Tensor | Modulation]
    blocks: Sequence[Tensor | Modulation]
    final: Tensor


class Modulations(NamedTuple):
    """All modulations at S noise levels.

    levels: (S,). mixer, blocks: (S, B, 6·D) for each block. final: (S, B, 2·D).
    """

    levels: Tensor
    mixer: list[Tensor]
    blocks: list[Tensor]
    final: Tensor

    def at(self, level: Tensor) -> Conditioning:
        """level (B,), each one of `levels` -> what is told of the samples; never waits for a GPU."""
        distance, index = (self.levels[:, None] - level).abs().min(dim=0)
        torch._assert_async((distance <= 1e-5).all(), "a noise level was asked for that was not prepared")
        rows = torch.arange(len(level), device=level.device)
        mixer, blocks = ([Modulation(y[index, rows]) for y in stack] for stack in (self.mixer, self.blocks))
        return Conditioning(mixer, blocks, self.final[index, rows])

    def rows(self, rows: slice) -> Modulations:
        """Those of some of the B samples."""
        mixer, blocks = ([y[:, rows] for y in stack] for stack in (self.mixer, self.blocks))
        return Modulations(self.levels, mixer, blocks, self.final[:, rows])


class EncodedCaption(NamedTuple):
    """What follows from a condition alone, or from it and noise levels that are known beforehand.

    mixer, blocks: for each block what it attends to, tokens (B, L, D) or their keys and values. mask: of the tokens,
    (B, L), or None. pooled: (B, D), with what is told of the level of a conditioning image. image: (B, T, D), what
    such an image adds to the patches, or None. modulations: at the known noise levels, or None. null_rows: how many of
    the B have null captions; they come first, are keys and values, and have no row in the mask.
    """

    mixer: Sequence[Tensor | KeysValues]
    blocks: Sequence[Tensor | KeysValues]
    mask: Tensor | None
    pooled: Tensor
    image: Tensor | None = None
    modulations: Modulations | None = None
    null_rows: int = 0

    def without_null(self) -> EncodedCaption:
        """The captions that are not null, of which nothing is computed again."""

        def shown(attended: Tensor | KeysValues) -> Tensor | KeysValues:
            return attended.without_null() if isinstance(attended, KeysValues) else attended

        mixer, blocks = ([shown(attended) for attended in stack] for stack in (self.mixer, self.blocks))
        rows = slice(self.null_rows, None)
        modulations = None if self.modulations is None else self.modulations.rows(rows)
        image = None if self.image is None else self.image[rows]
        return EncodedCaption(mixer, blocks, self.mask, self.pooled[rows], image, modulations)


def mean_token(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """(B, L, D), mask (B, L) of the rows that count, or None for all -> their mean (B, D)."""
    if mask is None:
        return tokens.mean(dim=1)
    weight = mask.to(tokens.dtype)
    return torch.einsum("bld,bl->bd", tokens, weight / weight.sum(dim=1, keepdim=True))
