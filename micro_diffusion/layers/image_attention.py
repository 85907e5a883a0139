"""Attention among the cells of an image, full or linear, and of cells to text.

Legend: B images, C channels, h w height and width, N = h·w cells, H heads, d width of a head, L tokens, D their width.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

AttentionKind = Literal["linear", "full"]


class ImageAttention(nn.Module):
    """x + attention of its cells to one another, after a normalisation over the whole image.

    Args:
        channels: C.
        heads: H.
        head_dim: d; heads·head_dim need not be C.
        kind: "full" costs N² and "linear" N.
    """

    def __init__(self, channels: int, *, heads: int, head_dim: int, kind: AttentionKind) -> None:
        super().__init__()
        if kind not in ("linear", "full"):
            raise ValueError(f"attention is {kind!r}; set it to linear or full")
        self.heads, self.kind = heads, kind
        self.norm = nn.GroupNorm(1, channels)
        self.qkv = nn.Conv2d(channels, 3 * heads * head_dim, 1, bias=False)
        self.out = nn.Conv2d(heads * head_dim, channels, 1)
        # Linear attention's averages shrink with the image, which a second normalisation makes up for.
        self.out_norm = nn.GroupNorm(1, channels) if kind == "linear" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape."""
        q, k, v = (_heads(y, self.heads) for y in self.qkv(self.norm(x)).chunk(3, dim=1))
        attend = linear_attention if self.kind == "linear" else functional.scaled_dot_product_attention
        return x + self.out_norm(self.out(_cells(attend(q, k, v), x)))


class TextAttention(nn.Module):
    """x + attention of an image's cells to the tokens of a text.

    Without biases, so that a text of zeros adds nothing.

    Args:
        channels: C.
        token_dim: D.
        heads: H.
        head_dim: d.
    """

    def __init__(self, channels: int, *, token_dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(1, channels)
        self.q = nn.Conv2d(channels, heads * head_dim, 1, bias=False)
        self.kv = nn.Linear(token_dim, 2 * heads * head_dim, bias=False)
        self.out = nn.Conv2d(heads * head_dim, channels, 1, bias=False)

    def forward(self, x: Tensor, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, C, h, w), tokens (B, L, D), mask (B, L) bool of tokens that may be attended to -> (B, C, h, w)."""
        q = _heads(self.q(self.norm(x)), self.heads)
        k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in self.kv(tokens).chunk(2, dim=-1))
        mask = None if mask is None else mask[:, None, None]
        return x + self.out(_cells(functional.scaled_dot_product_attention(q, k, v, attn_mask=mask), x))


def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax_d(q)·d^−½ · (softmax_N(k)ᵀ v) (Shen et al. 2018, "Efficient Attention", arXiv 1812.01243, equation 3).

    q, k, v: (B, H, N, d) -> (B, H, N, d). The product of k and v is d×d, so that the cost grows with N.
    """
    context = k.softmax(dim=-2).mT @ v
    return q.softmax(dim=-1) * q.shape[-1] ** -0.5 @ context


def _heads(features: Tensor, heads: int) -> Tensor:
    """(B, H·d, h, w) -> (B, H, N, d)."""
    return features.flatten(2).unflatten(1, (heads, -1)).mT


def _cells(attended: Tensor, like: Tensor) -> Tensor:
    """(B, H, N, d) -> (B, H·d, h, w), h and w those of `like`."""
    return attended.mT.flatten(1, 2).unflatten(2, like.shape[2:])
