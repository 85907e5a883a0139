"""What the UNet for pixels is told: noise levels and text, as one vector and as rows to attend to.

Legend: B batch, L caption tokens, D width of the rows, E width of the vector.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn

from micro_diffusion.backbone.perceiver import PerceiverResampler
from micro_diffusion.condition import Condition


class LevelEmbedding(nn.Module):
    """A noise level, of any real number, to a vector and some rows.

    Sines and cosines of learned frequencies, which start as draws from N(0, 1), stand beside the level itself.

    Args:
        vector_dim: E.
        row_dim: D.
        rows: how many.
        features: sines and cosines together, an even number.
    """

    def __init__(self, vector_dim: int, *, row_dim: int, rows: int, features: int) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(torch.randn(features // 2))
        self.hidden = nn.Sequential(nn.Linear(2 * (features // 2) + 1, vector_dim), nn.SiLU())
        self.vector = nn.Linear(vector_dim, vector_dim)
        self.row_dim, self.rows = row_dim, nn.Linear(vector_dim, rows * row_dim)

    def forward(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) -> (B, E), (B, rows, D)."""
        level = level.to(self.frequencies.dtype)[:, None]
        angle = 2 * math.pi * level * self.frequencies
        features = torch.cat([level, angle.sin(), angle.cos()], dim=1)
        hidden = self.hidden(features.to(self.vector.weight.dtype))
        return self.vector(hidden), rearrange(self.rows(hidden), "b (n d) -> b n d", d=self.row_dim)


class TextPath(nn.Module):
    """Caption tokens to a few rows and, from their mean, a vector that is added to that of the noise level.

    A token that is zero, or left out by the mask, becomes a learned null token of its place; a caption of such tokens
    alone gets a learned null vector too. So the null condition, padding and an unconditional model are one case.

    Args:
        caption_dim: width of a caption token's feature.
        row_dim: D.
        vector_dim: E.
        length: the most tokens of a caption, L.
        latents: learned ones of the perceiver resampler; 0 leaves the rows as they are.
        heads, head_dim: of its attention.
    """

    def __init__(
        self, caption_dim: int, *, row_dim: int, vector_dim: int, length: int, latents: int, heads: int, head_dim: int
    ) -> None:
        super().__init__()
        self.caption_dim, self.length = caption_dim, length
        self.rows = nn.Linear(caption_dim, row_dim)
        self.null_tokens = nn.Parameter(torch.randn(length, row_dim))
        self.null_vector = nn.Parameter(torch.randn(vector_dim))
        self.resampler = nn.Identity()
        if latents:
            self.resampler = PerceiverResampler(row_dim, latents=latents, length=length, heads=heads, head_dim=head_dim)
        self.vector = nn.Sequential(
            nn.LayerNorm(row_dim), nn.Linear(row_dim, vector_dim), nn.SiLU(), nn.Linear(vector_dim, vector_dim)
        )

    def forward(self, condition: Condition) -> tuple[Tensor, Tensor]:
        """-> (B, E), (B, rows, D).

        Raises ValueError when tokens have another width than the network was built for, or are too many.
        """
        tokens = condition.tokens
        _, length, width = tokens.shape
        if width != self.caption_dim:
            raise ValueError(
                f"captions have features of width {width}, but the network was built for {self.caption_dim}; set "
                f"backbone.caption_dim={width} or use its own text encoder"
            )
        if length > self.length:
            raise ValueError(
                f"captions have {length} tokens, but the network was built for {self.length}; set "
                f"backbone.max_text_length={length}, or text_encoder.max_length={self.length}"
            )
        told = tokens.ne(0).any(dim=-1)
        if condition.mask is not None:
            if condition.mask.shape != told.shape:
                raise ValueError(
                    f"the captions' mask is {tuple(condition.mask.shape)}, but they have {tuple(told.shape)} tokens; "
                    "give an entry for each token"
                )
            told = told & condition.mask
        rows = self.rows(tokens)
        rows = self.resampler(torch.where(told[:, :, None], rows, self.null_tokens[:length].to(rows.dtype)))
        vector = self.vector(rows.mean(dim=1))
        return torch.where(told.any(dim=1)[:, None], vector, self.null_vector.to(vector.dtype)), rows
