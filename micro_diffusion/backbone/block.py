"""The transformer block of patch mixer and backbone, and the caption's block.

Legend: B batch, T patches, L caption tokens, D width, c the conditioning vector (noise level and pooled caption).
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from micro_diffusion.backbone.attention import CrossAttention, KeysValues, SelfAttention
from micro_diffusion.backbone.experts import ExpertChoice, SwiGLU
from micro_diffusion.backbone.recomputation import modulated_norm

Norm = Literal["layer", "rms"]
"""LayerNorm, or RMSNorm (Zhang & Sennrich 2019, arXiv 1910.07467), which takes no mean away."""


def norm_of(kind: Norm, dim: int, eps: float) -> nn.LayerNorm | nn.RMSNorm:
    """Over the last axis, of width `dim`, with a weight and no bias."""
    return nn.RMSNorm(dim, eps=eps) if kind == "rms" else nn.LayerNorm(dim, eps=eps, bias=False)


class BlockShape(NamedTuple):
    """Widths of one block, after layer-wise scaling (Mehta et al. 2024, arXiv 2404.14619).

    dim: D. conditioning_dim: width of c. attention_dim: heads · head_dim. hidden: of the feed-forward layer.
    experts: 0 for a dense SwiGLU. unmodulated_router: experts choose by tokens that are not told the noise level.
    shared_modulation: c is the modulation of all blocks, to which this one adds an `Offset`.
    value_residual: see `Block.values`. convolution: a 3×3 depth-wise convolution over the patch grid before the
    feed-forward layer (as in LocalViT, arXiv 2104.05707); needs every patch.
    """

    dim: int
    conditioning_dim: int
    attention_dim: int
    hidden: int
    head_dim: int
    experts: int = 0
    expert_capacity: float = 1.0
    unmodulated_router: bool = False
    shared_modulation: bool = False
    value_residual: bool = False
    norm: Norm = "layer"
    convolution: bool = False
    eps: float = 1e-6


class Modulation(NamedTuple):
    """What a block makes of c, known before it is called. values: (B, 6·D), shift, scale and gate of each branch."""

    values: Tensor


class Block(nn.Module):
    """x + gate·attention(mod(norm1 x)), + cross(norm2 x, caption), + gate·ffn(mod(norm3 x))."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        dim, eps = shape.dim, shape.eps
        self.norm1 = norm_of(shape.norm, dim, eps)
        self.attention = SelfAttention(dim, attention_dim=shape.attention_dim, head_dim=shape.head_dim, eps=eps)
        self.norm2 = norm_of(shape.norm, dim, eps)
        self.cross_attention = CrossAttention(dim, head_dim=shape.head_dim, eps=eps)
        self.norm3 = norm_of(shape.norm, dim, eps)
        self.convolution = GridConvolution(dim) if shape.convolution else None
        self.ffn = (
            ExpertChoice(dim, shape.hidden, experts=shape.experts, capacity=shape.expert_capacity)
            if shape.experts
            else SwiGLU(dim, shape.hidden)
        )
        self.unmodulated_router = shape.unmodulated_router and shape.experts > 0
        self.modulation = Offset(6 * dim) if shape.shared_modulation else nn.Linear(shape.conditioning_dim, 6 * dim)
        self.value_mix = nn.Parameter(torch.full((2,), 0.5)) if shape.value_residual else None

    def forward(
        self,
        x: Tensor,
        c: Tensor | Modulation,
        caption: Tensor | KeysValues,
        mask: Tensor | None = None,
        *,
        grid: tuple[int, int] | None = None,
        angles: Tensor | None = None,
        first_values: Tensor | None = None,
    ) -> Tensor:
        """One block.

        Args:
            x: (B, T, D).
            c: (B, conditioning_dim), after its GELU, or what all blocks share of the modulation (B, 6·D), or the
                modulation that follows.
            caption: (B, L, D), or its keys and values.
            mask: (B, L) bool, or None where every row counts.
            grid: rows and columns of patches, for the convolution.
            angles: (T, head_dim/2) or (B, T, head_dim/2) rotary positions, or None for none.
            first_values: (B, T, attention_dim) of the first block, for one with a value residual.

        Returns:
            (B, T, D).
        """
        shift1, scale1, gate1, shift3, scale3, gate3 = self._modulated(c)
        mixed = None if first_values is None or self.value_mix is None else (first_values, *self.value_mix)
        x = x + gate1 * self.attention(modulated_norm(self.norm1, x, shift1, scale1), angles=angles, mixed=mixed)
        x = x + self.cross_attention(self.norm2(x), caption, mask)
        y = modulated_norm(self.norm3, x, shift3, scale3)
        if self.convolution is not None:
            y = self.convolution(y, grid)
        routed = {"routed_by": self.norm3(x)} if self.unmodulated_router else {}
        return x + gate3 * self.ffn(y, **routed)

    def values(self, x: Tensor, c: Tensor | Modulation) -> Tensor:
        """What the self-attention of this block takes for values, x (B, T, D) -> (B, T, attention_dim).

        Later blocks mix those of the first one into their own, a·first + b·own with learned a and b that start at 1/2
        (Zhou et al. 2024, "Value residual learning", arXiv 2410.17897, section 3).
        """
        shift, scale, *_ = self._modulated(c)
        return self.attention.values(modulated_norm(self.norm1, x, shift, scale))

    def _modulated(self, c: Tensor | Modulation) -> tuple[Tensor, ...]:
        """Shift, scale and gate (B, 1, D) of attention and feed-forward layer."""
        modulation: Tensor = c.values if isinstance(c, Modulation) else self.modulation(c)
        return modulation[:, None].chunk(6, dim=-1)

    def initialize(self, depth: int) -> None:
        """Zero modulation, and the last projections shrunk with the block's index (0-based `depth`)."""
        for parameter in self.modulation.parameters():
            nn.init.zeros_(parameter)
        last = self.ffn.w2 if isinstance(self.ffn, ExpertChoice) else self.ffn.w3.weight
        for weight in (self.attention.out.weight, self.cross_attention.out.weight, last):
            nn.init.trunc_normal_(weight, std=0.02 / math.sqrt(2 * (depth + 1)))


class Offset(nn.Module):
    """What a block adds to a modulation that all blocks share, so that it has 6·D numbers of its own in place of 6·D².

    Chen et al. 2023, "PixArt-α", arXiv 2310.00426, section 2.3 (adaLN-single). It begins at zero, like every modulation
    here.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, shared: Tensor) -> Tensor:
        """(..., dim) -> the same shape, in the precision in which the shared part was computed."""
        return shared + self.bias.to(shared.dtype)


class CaptionBlock(nn.Module):
    """One self-attention and SwiGLU block over the caption's tokens."""

    def __init__(self, dim: int, *, hidden: int, head_dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps, bias=False)
        self.attention = SelfAttention(dim, attention_dim=dim, head_dim=head_dim, eps=eps)
        self.norm2 = nn.LayerNorm(dim, eps=eps, bias=False)
        self.ffn = SwiGLU(dim, hidden)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, L, D), mask (B, L) -> (B, L, D)."""
        x = x + self.attention(self.norm1(x), mask)
        return x + self.ffn(self.norm2(x))

    def initialize(self) -> None:
        """The block begins as the identity."""
        nn.init.zeros_(self.attention.out.weight)
        nn.init.zeros_(self.ffn.w3.weight)


class GridConvolution(nn.Module):
    """x + depth-wise 3×3 convolution of x over the patch grid; begins as the identity."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim, 1, 3, 3))

    def forward(self, x: Tensor, grid: tuple[int, int] | None) -> Tensor:
        """(B, rows·columns, D) -> the same shape."""
        if grid is None:
            raise ValueError("a block with a convolution needs the whole patch grid; use it in the patch mixer only")
        image = x.transpose(1, 2).unflatten(2, grid)
        return x + functional.conv2d(image, self.weight, padding=1, groups=x.shape[2]).flatten(2).transpose(1, 2)
