"""Captions of any length as a few learned rows.

Jaegle et al. 2021 (Perceiver), arXiv 2103.03206; Alayrac et al. 2022 (Flamingo, the resampler), arXiv 2204.14198.

Legend: B batch, L rows, D width, N learned latents.
"""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from micro_diffusion.backbone.pixel_attention import CosineAttention, feed_forward

FROM_MEAN = 4
"""Latents that are not learned but follow from the mean of the rows."""

HIDDEN = 4
"""Width of a feed-forward layer over D."""


class PerceiverResampler(nn.Module):
    """Learned latents that attend to the rows and to each other.

    Args:
        dim: D.
        latents: N.
        length: the most rows that it takes.
        heads, head_dim: of its attention.
        depth: attentions, each with a feed-forward layer.
    """

    def __init__(self, dim: int, *, latents: int, length: int, heads: int, head_dim: int, depth: int = 2) -> None:
        super().__init__()
        self.positions = nn.Embedding(length, dim)
        self.latents = nn.Parameter(torch.randn(latents, dim))
        self.from_mean = nn.Sequential(nn.LayerNorm(dim, bias=False), nn.Linear(dim, FROM_MEAN * dim))
        self.attentions = nn.ModuleList(PerceiverAttention(dim, heads=heads, head_dim=head_dim) for _ in range(depth))
        self.feed_forwards = nn.ModuleList(feed_forward(dim, HIDDEN * dim) for _ in range(depth))

    def forward(self, rows: Tensor) -> Tensor:
        """(B, L, D) -> (B, 4 + N, D)."""
        positions = self.positions.weight[: rows.shape[1]].to(rows.dtype)
        averaged = rearrange(self.from_mean(rows.mean(dim=1)), "b (n d) -> b n d", n=FROM_MEAN)
        learned = repeat(self.latents, "n d -> b n d", b=len(rows)).to(averaged.dtype)
        latents = torch.cat([averaged, learned], dim=1)
        for attention, layer in zip(self.attentions, self.feed_forwards, strict=True):
            latents = latents + attention(rows + positions, latents)
            latents = latents + layer(latents)
        return latents


class PerceiverAttention(nn.Module):
    """Attention of latents to rows and latents."""

    def __init__(self, dim: int, *, heads: int, head_dim: int) -> None:
        super().__init__()
        self.norm, self.latent_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.q = nn.Linear(dim, heads * head_dim, bias=False)
        self.kv = nn.Linear(dim, 2 * heads * head_dim, bias=False)
        self.attention = CosineAttention(head_dim)
        self.out = nn.Linear(heads * head_dim, dim, bias=False)
        self.out_norm = nn.LayerNorm(dim)

    def forward(self, rows: Tensor, latents: Tensor) -> Tensor:
        """(B, L, D), (B, N, D) -> (B, N, D)."""
        latents = self.latent_norm(latents)
        keys, values = self.kv(torch.cat([self.norm(rows), latents], dim=1)).chunk(2, dim=-1)
        return self.out_norm(self.out(self.attention(self.q(latents), keys, values)))
