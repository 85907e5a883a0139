"""The block of `ConvTransformer`: attention without output projections, and a convolution in the feed-forward layer.

Legend: B batch, T patches, L caption tokens, E width, H heads.
"""

from __future__ import annotations

from collections.abc import Callable

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from micro_diffusion.backbone.attention import attend


class ConvBlock(nn.Module):
    """Self-attention, cross-attention and a feed-forward layer with a convolution, each around a residual."""

    def __init__(self, dim: int, heads: int, cross_heads: int, hidden: int, pre_norm: bool, interleaved: bool) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = PlainAttention(dim, heads, interleaved, cross=False)
        self.cross_attention = PlainAttention(dim, cross_heads, interleaved, cross=True)
        self.ffn = ConvFeedForward(dim, hidden)

    def forward(self, x: Tensor, told: Tensor, mask: Tensor | None, grid: tuple[int, int]) -> Tensor:
        """x (B, T, E), told (B, 1 + L, E), mask (B, 1 + L) bool or None, rows and columns -> (B, T, E)."""
        x = self._residual(x, self.norm1, self.attention)
        x = self._residual(x, self.norm2, lambda y: self.cross_attention(y, told, mask))
        return self._residual(x, self.norm3, lambda y: self.ffn(y, grid))

    def _residual(self, x: Tensor, norm: nn.Module, layer: Callable[[Tensor], Tensor]) -> Tensor:
        return x + layer(norm(x)) if self.pre_norm else norm(x + layer(x))


class PlainAttention(nn.Module):
    """Attention without biases, without normalised q and k, and without a projection of its result."""

    def __init__(self, dim: int, heads: int, interleaved: bool, *, cross: bool) -> None:
        super().__init__()
        self.heads, self.head_dim, self.interleaved = heads, dim // heads, interleaved
        self.q = nn.Linear(dim, dim, bias=False) if cross else None
        self.kv = nn.Linear(dim, 2 * dim, bias=False) if cross else None
        self.qkv = None if cross else nn.Linear(dim, 3 * dim, bias=False)

    def forward(self, x: Tensor, told: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """x (B, T, E), and told (B, L, E) with its mask (B, L) for cross-attention -> (B, T, E)."""
        if self.qkv is not None:
            q, k, v = self.qkv(x).chunk(3, dim=-1)
        else:
            assert self.q is not None and self.kv is not None
            q, (k, v) = self.q(x), self.kv(told).chunk(2, dim=-1)
        if not self.interleaved:
            return attend(q, k, v, self.head_dim, mask)
        q, k, v = (rearrange(y, "b t (d h) -> b t (h d)", h=self.heads) for y in (q, k, v))
        return rearrange(attend(q, k, v, self.head_dim, mask), "b t (h d) -> b t (d h)", h=self.heads)


class ConvFeedForward(nn.Module):
    """Linear → depth-wise 3×3 convolution over the patch grid → exact GELU → Linear, with biases."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.expand = nn.Linear(dim, hidden)
        self.convolution = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.contract = nn.Linear(hidden, dim)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, rows·columns, E) -> the same shape."""
        image = rearrange(self.expand(x), "b (h w) e -> b e h w", h=grid[0], w=grid[1])
        return self.contract(functional.gelu(rearrange(self.convolution(image), "b e h w -> b (h w) e")))
