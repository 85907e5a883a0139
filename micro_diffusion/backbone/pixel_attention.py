"""Attention of the UNet for pixels: among the cells of an image, and from them to a context of text and level rows.

Legend: B batch, C channels, h w cells, T = h·w, L context rows, D context width, H heads, d width of a head.
"""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional

from micro_diffusion.backbone.attention import attend
from micro_diffusion.layers.image_attention import linear_attention

COSINE_SCALE = 8.0
"""What the cosine of a query and a key is multiplied by before the softmax."""


class CosineAttention(nn.Module):
    """softmax(8·cos(q, k))·v with a learned gain for each entry of q and k (Henry et al. 2020, arXiv 2010.04245)."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.q_gain, self.k_gain = nn.Parameter(torch.ones(head_dim)), nn.Parameter(torch.ones(head_dim))

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q (B, T, H·d), k and v (B, L, H·d), or (B, L, d) where all heads share them -> (B, T, H·d)."""
        q, k, v = (rearrange(y, "b t (h d) -> b t h d", d=self.head_dim) for y in (q, k, v))
        temperature = COSINE_SCALE * self.head_dim**0.5  # `attend` divides by the root
        q = (functional.normalize(q, dim=-1) * self.q_gain * temperature).to(v.dtype)
        k = (functional.normalize(k, dim=-1) * self.k_gain).to(v.dtype)
        heads = q.shape[2]
        if v.shape[2] == 1:
            k, v = (repeat(y, "b t 1 d -> b t h d", h=heads) for y in (k, v))
        return attend(q.flatten(2), k.flatten(2), v.flatten(2), self.head_dim)


class MultiQueryAttention(nn.Module):
    """Self-attention whose heads share one key and one value (Shazeer 2019, arXiv 1911.02150).

    A learned null pair stands before those of the cells, so that a cell may attend to nothing, and the context's too.

    Args:
        channels: C.
        heads, head_dim: H and d.
        context_dim: D; None takes no context.
    """

    def __init__(self, channels: int, *, heads: int, head_dim: int, context_dim: int | None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, bias=False)
        self.q = nn.Linear(channels, heads * head_dim, bias=False)
        self.kv = nn.Linear(channels, 2 * head_dim, bias=False)
        self.null_kv = nn.Parameter(torch.randn(1, 1, 2 * head_dim))
        self.context_kv = None
        if context_dim is not None:
            self.context_kv = nn.Sequential(nn.LayerNorm(context_dim), nn.Linear(context_dim, 2 * head_dim))
        self.attention = CosineAttention(head_dim)
        self.out = nn.Linear(heads * head_dim, channels, bias=False)
        self.out_norm = nn.LayerNorm(channels, bias=False)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """(B, C, h, w), (B, L, D) -> (B, C, h, w)."""
        height = x.shape[-2]
        tokens = self.norm(rearrange(x, "b c h w -> b (h w) c"))
        kv = self.kv(tokens)
        kv = torch.cat([self.null_kv.expand(len(x), -1, -1).to(kv.dtype), kv], dim=1)
        if self.context_kv is not None:
            kv = torch.cat([self.context_kv(context), kv], dim=1)
        y = self.out_norm(self.out(self.attention(self.q(tokens), *kv.chunk(2, dim=-1))))
        return rearrange(y, "b (h w) c -> b c h w", h=height)


class LinearAttention(nn.Module):
    """Self-attention whose cost grows with T rather than its square (Shen et al. 2021, arXiv 1812.01243).

    Queries are normalised over a head's entries and keys over the rows, so that keysᵀ·values comes first. A depthwise
    convolution lets each of the three see its neighbours.
    """

    def __init__(self, channels: int, *, heads: int, head_dim: int, context_dim: int | None) -> None:
        super().__init__()
        width = 3 * heads * head_dim
        self.head_dim = head_dim
        self.norm = nn.LayerNorm(channels, bias=False)
        self.qkv = nn.Linear(channels, width, bias=False)
        self.neighbours = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.context_kv = None
        if context_dim is not None:
            self.context_kv = nn.Sequential(
                nn.LayerNorm(context_dim), nn.Linear(context_dim, 2 * heads * head_dim, bias=False)
            )
        self.out = nn.Linear(heads * head_dim, channels, bias=False)
        self.out_norm = nn.LayerNorm(channels, bias=False)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """(B, C, h, w), (B, L, D) -> (B, C, h, w)."""
        height = x.shape[-2]
        projected = self.qkv(self.norm(rearrange(x, "b c h w -> b h w c")))
        projected = self.neighbours(rearrange(projected, "b h w c -> b c h w"))
        q, k, v = rearrange(projected, "b (three c) h w -> three b (h w) c", three=3)
        if self.context_kv is not None:
            ck, cv = self.context_kv(context).chunk(2, dim=-1)
            k, v = torch.cat([k, ck], dim=1), torch.cat([v, cv], dim=1)
        q, k, v = (rearrange(y, "b t (h d) -> b h t d", d=self.head_dim) for y in (q, k, v))
        y = rearrange(linear_attention(q, k, v), "b h t d -> b t (h d)")
        y = self.out_norm(self.out(functional.silu(y)))
        return rearrange(y, "b (h w) c -> b c h w", h=height)


class CrossAttention(nn.Module):
    """Attention of cells to the context, each head with keys and values of its own, and a learned null pair."""

    def __init__(self, channels: int, *, heads: int, head_dim: int, context_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels, bias=False)
        self.q = nn.Linear(channels, heads * head_dim, bias=False)
        self.kv = nn.Linear(context_dim, 2 * heads * head_dim, bias=False)
        self.null_kv = nn.Parameter(torch.randn(2, 1, head_dim))
        self.attention = CosineAttention(head_dim)
        self.out = nn.Linear(heads * head_dim, channels, bias=False)
        self.out_norm = nn.LayerNorm(channels, bias=False)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """(B, C, h, w), (B, L, D) -> (B, C, h, w)."""
        height = x.shape[-2]
        kv = self.kv(context)
        null = repeat(self.null_kv, "two 1 d -> b 1 (two h d)", b=len(x), h=self.heads)
        kv = torch.cat([null.to(kv.dtype), kv], dim=1)
        q = self.q(self.norm(rearrange(x, "b c h w -> b (h w) c")))
        y = self.out_norm(self.out(self.attention(q, *kv.chunk(2, dim=-1))))
        return rearrange(y, "b (h w) c -> b c h w", h=height)


def feed_forward(dim: int, hidden: int) -> nn.Sequential:
    """Norm, linear, GELU, norm, linear, without biases: (..., dim) -> (..., dim)."""
    return nn.Sequential(
        nn.LayerNorm(dim, bias=False),
        nn.Linear(dim, hidden, bias=False),
        nn.GELU(),
        nn.LayerNorm(hidden, bias=False),
        nn.Linear(hidden, dim, bias=False),
    )


class AttentionBlock(nn.Module):
    """Self-attention and a feed-forward layer on the cells, each added to its input.

    attention: full or linear. hidden: width of the feed-forward layer.
    """

    def __init__(self, channels: int, attention: MultiQueryAttention | LinearAttention, hidden: int) -> None:
        super().__init__()
        self.attention, self.feed_forward = attention, feed_forward(channels, hidden)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """(B, C, h, w), (B, L, D) -> (B, C, h, w)."""
        x = x + self.attention(x, context)
        return x + rearrange(self.feed_forward(rearrange(x, "b c h w -> b h w c")), "b h w c -> b c h w")
