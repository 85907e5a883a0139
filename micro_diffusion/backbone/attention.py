"""Multi-head attention with normalised queries and keys.

Legend: B batch, T query tokens, L caption tokens, D model width, A attention width (heads · head_dim).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from micro_diffusion.backbone.blockwise_attention import blockwise_attention

Prepare = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""Queries, keys and values to others of the same shapes."""


class SelfAttention(nn.Module):
    """Self-attention whose width may be narrower than the model (layer-wise scaling); no biases.

    Queries and keys pass a parameter-free LayerNorm over the whole attention width before the heads are split.
    """

    def __init__(self, dim: int, *, attention_dim: int, head_dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.head_dim, self.eps = head_dim, eps
        self.qkv = nn.Linear(dim, 3 * attention_dim, bias=False)
        self.out = nn.Linear(attention_dim, dim, bias=False)

    def values(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, A)."""
        return functional.linear(x, self.qkv.weight.chunk(3)[2])

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        angles: Tensor | None = None,
        mixed: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Attention among the rows of x.

        Args:
            x: (B, T, D).
            mask: (B, T) bool of rows that may be attended to, or None for all.
            angles: (T, head_dim/2) or (B, T, head_dim/2) rotary positions, or None for none.
            mixed: other values (B, T, A), and the shares () of these and its own; None for its own alone.

        Returns:
            (B, T, D).
        """

        def prepare(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            q, k = normalize(q, self.eps), normalize(k, self.eps)
            return (q, k, v) if angles is None else (rotate(q, angles), rotate(k, angles), v)

        q, k, v = self.qkv(x).chunk(3, dim=-1)
        if mixed is not None:
            others, share, own = mixed
            v = (share * others + own * v).to(v.dtype)
        return self.out(attend(q, k, v, self.head_dim, mask, prepare=prepare))


class KeysValues(NamedTuple):
    """Captions as one cross-attention sees them, made once for many calls.

    keys, values: (N, L, D), of N captions. null: (M, 1, D), what M null captions before them add to every query.
    """

    keys: Tensor
    values: Tensor
    null: Tensor

    def without_null(self) -> KeysValues:
        """The N captions alone."""
        return self._replace(null=self.null[:0])


class CrossAttention(nn.Module):
    """Attention of patches to caption tokens, at full width; no biases."""

    def __init__(self, dim: int, *, head_dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.head_dim, self.eps = head_dim, eps
        self.q = nn.Linear(dim, dim, bias=False)
        self.kv = nn.Linear(dim, 2 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, caption: Tensor | KeysValues, mask: Tensor | None = None) -> Tensor:
        """Attention of x's rows to their captions.

        Args:
            x: (B, T, D).
            caption: (B, L, D), or M null captions and N others as keys and values, with M + N = B.
            mask: (B, L) or (N, L) bool, or None where every row counts.

        Returns:
            (B, T, D).
        """
        if isinstance(caption, KeysValues):
            q = normalize(self.q(x[len(caption.null) :]), self.eps)
            y = self.out(attend(q, caption.keys, caption.values, self.head_dim, mask))
            return torch.cat([caption.null.expand(-1, x.shape[1], -1), y])

        def prepare(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return normalize(q, self.eps), normalize(k, self.eps), v

        k, v = self.kv(caption).chunk(2, dim=-1)
        return self.out(attend(self.q(x), k, v, self.head_dim, mask, prepare=prepare))

    def keys_values(self, caption: Tensor, null: Tensor) -> KeysValues:
        """caption (N, L, D), and null (M, 1, D), one row of each null caption, all of whose rows are equal.

        Any average of equal rows is that row, so a null caption's share does not depend on the query.
        """
        k, v = self.kv(caption).chunk(2, dim=-1)
        return KeysValues(normalize(k, self.eps), v, self.out(self.kv(null).chunk(2, dim=-1)[1]))


def normalize(x: Tensor, eps: float) -> Tensor:
    """LayerNorm without parameters over the last axis, in x's own dtype."""
    return functional.layer_norm(x, x.shape[-1:], eps=eps).to(x.dtype)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """(B, T, A), angles (T, head_dim/2) or (B, T, head_dim/2) -> (B, T, A): each head's pairs (i, i + half) turned."""
    heads = x.unflatten(-1, (-1, 2 * angles.shape[-1]))
    cos, sin = (turn.unsqueeze(-2).to(x.dtype) for turn in (angles.cos(), angles.sin()))
    first, second = heads.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)


def attend(
    q: Tensor, k: Tensor, v: Tensor, head_dim: int, mask: Tensor | None = None, *, prepare: Prepare | None = None
) -> Tensor:
    """(B, T, A), (B, L, A), (B, L, A), mask (B, L) -> (B, T, A): softmax(q·kᵀ/√head_dim)·v, head by head.

    prepare: what happens to q, k and v before; a CPU in bf16 keeps them for the backward pass as they were.
    """

    def heads(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        made = (q, k, v) if prepare is None else prepare(q, k, v)
        return tuple(y.unflatten(-1, (-1, head_dim)).transpose(1, 2) for y in made)

    rows = None if mask is None else mask[:, None, None, :]
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        q, k, v = heads(q, k, v)
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=rows)
    elif torch.compiler.is_compiling():
        q, k, v = heads(q, k, v)
        y = plain_attention(q, k, v, rows)
    else:
        y = blockwise_attention(heads, q, k, v, mask=mask)
    return y.transpose(1, 2).flatten(2)


def plain_attention(q: Tensor, k: Tensor, v: Tensor, rows: Tensor | None = None) -> Tensor:
    """(B, H, T, d), (B, H, L, d) twice, rows (B, 1, 1, L) bool or None -> (B, H, T, d), the products written out.

    In bf16 on a CPU they outrun the fused kernels.
    """
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    if rows is not None:
        scores = scores.masked_fill(~rows, -torch.inf)
    return scores.softmax(dim=-1) @ v
