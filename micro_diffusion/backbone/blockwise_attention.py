"""Attention a few heads at a time, whose scores stay in the processor's caches and are never kept.

As in FlashAttention (Dao et al. 2022, arXiv 2205.14135) the backward pass computes the scores again; here with whole
matrix products, which outrun the fused bf16 kernels of a CPU.
Legend: B batch, H heads, T query tokens, L tokens attended to, d head width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SCORES_AT_ONCE = 2**20
"""Scores of the heads that are computed together: 2 MB in bf16."""


def blockwise_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(B, H, T, d), (B, H, L, d), (B, H, L, d) -> (B, H, T, d): softmax(q·kᵀ/√d)·v."""
    q = q * q.shape[-1] ** -0.5
    made: Tensor = _Blockwise.apply(*(y.flatten(0, 1) for y in (q, k, v)))  # pyright: ignore[reportAssignmentType]
    return made.unflatten(0, q.shape[:2])


class _Blockwise(torch.autograd.Function):
    """softmax(q·kᵀ)·v of (B·H, T, d), (B·H, L, d), (B·H, L, d)."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Keeps q, k and v."""
        ctx.save_for_backward(q, k, v)
        made = torch.empty_like(q)
        for out, q1, k1, v1 in _blocks(made, q, k, v):
            torch.bmm(_probabilities(q1, k1), v1, out=out)
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of q, k and v."""
        q, k, v = ctx.saved_tensors
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        for out_q, out_k, out_v, g1, q1, k1, v1 in _blocks(grad_q, grad_k, grad_v, gradient, q, k, v):
            share = _probabilities(q1, k1)
            torch.bmm(share.mT, g1, out=out_v)
            grad_scores = torch._softmax_backward_data(torch.bmm(g1, v1.mT), share, -1, share.dtype)
            torch.bmm(grad_scores, k1, out=out_q)
            torch.bmm(grad_scores.mT, q1, out=out_k)
        return grad_q, grad_k, grad_v


def _probabilities(q: Tensor, k: Tensor) -> Tensor:
    """(n, T, d), (n, L, d) -> (n, T, L)."""
    return torch.bmm(q, k.mT).softmax(dim=-1)


def _blocks(*tensors: Tensor) -> zip[tuple[Tensor, ...]]:
    """The tensors' heads (their first axis) in blocks; the last two tensors are queries or keys, and values."""
    queries, keys = tensors[0].shape[1], tensors[-1].shape[1]
    heads = max(1, SCORES_AT_ONCE // (queries * keys))
    return zip(*(tensor.split(heads) for tensor in tensors), strict=True)
