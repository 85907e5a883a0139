"""Attention a few heads at a time, whose scores stay in the processor's caches and are never kept.

As in FlashAttention (Dao et al. 2022, arXiv 2205.14135) the backward pass computes the scores again; here with whole
matrix products, which outrun the fused bf16 kernels of a CPU.
Legend: B batch, H heads, T query tokens, L tokens attended to, d head width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from micro_diffusion.backbone.recomputation import again

SCORES_AT_ONCE = 2**20
"""Scores of the heads that are computed together: 2 MB in bf16."""


SUMS_UP_TO = 2.0**100
"""Sums of exponentials above it, or below its inverse, are left to the softmax that subtracts the largest score."""


def blockwise_attention(
    heads: Callable[..., tuple[Tensor, ...]], *inputs: Tensor, mask: Tensor | None = None
) -> Tensor:
    """softmax(q·kᵀ/√d)·v, with q (B, H, T, d), k (B, H, L, d) and v (B, H, L, d) = heads(*inputs) -> (B, H, T, d).

    heads: cheap, since it is computed again in the backward pass; only its inputs are kept.
    mask: (B, L) bool of the rows that may be attended to, at least one, or None for all.
    """

    def scaled(*inputs: Tensor) -> tuple[Tensor, ...]:
        q, k, v = heads(*inputs)
        return q * q.shape[-1] ** -0.5, k, v

    made: Tensor = _Blockwise.apply(scaled, mask, *inputs)  # pyright: ignore[reportAssignmentType]
    return made


class _Blockwise(torch.autograd.Function):
    """softmax(q·kᵀ)·v of (B, H, T, d), (B, H, L, d), (B, H, L, d) = heads(*inputs)."""

    @staticmethod
    def forward(ctx: Any, heads: Callable[..., tuple[Tensor, ...]], mask: Tensor | None, *inputs: Tensor) -> Tensor:
        """Keeps the inputs."""
        ctx.heads, ctx.mask = heads, mask
        ctx.save_for_backward(*inputs)
        separate = heads(*inputs)
        q, k, v = (y.flatten(0, 1) for y in separate)
        made = torch.empty_like(q)
        for out, rows, q1, k1, v1 in _blocks(made, _rows(mask, separate[1]), q, k, v):
            share, total = _shares(q1, k1, rows)
            torch.bmm(share, v1, out=out).div_(total)
        return made.view(separate[0].shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the inputs."""
        made, inputs = again(ctx.heads, ctx.saved_tensors)
        q, k, v, gradient = (y.detach().flatten(0, 1) for y in (*made, gradient))
        gradients = grad_q, grad_k, grad_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        rows = _rows(ctx.mask, made[1])
        for out_q, out_k, out_v, g1, shown, q1, k1, v1 in _blocks(grad_q, grad_k, grad_v, gradient, rows, q, k, v):
            share, total = _shares(q1, k1, shown)
            g1 = (g1 / total).to(g1.dtype)
            torch.bmm(share.mT, g1, out=out_v)
            grad_scores = torch.bmm(g1, v1.mT).mul_(share)
            mean = grad_scores.sum(dim=-1, keepdim=True, dtype=total.dtype).div_(total).to(share.dtype)
            grad_scores.sub_(share.mul_(mean))
            torch.bmm(grad_scores, k1, out=out_q)
            torch.bmm(grad_scores.mT, q1, out=out_k)
        return (
            None,
            None,
            *torch.autograd.grad(made, inputs, [y.view(x.shape) for x, y in zip(made, gradients, strict=True)]),
        )


def _rows(mask: Tensor | None, k: Tensor) -> Tensor:
    """(B, L) bool, (B, H, L, d) -> 1 for rows that may be attended to, else 0, (B·H, 1, L); (B·H, 1, 0) for no mask."""
    if mask is None:
        return k.new_empty(k.shape[0] * k.shape[1], 1, 0)
    return mask.to(k.dtype)[:, None].repeat_interleave(k.shape[1], dim=0)


def _shares(q: Tensor, k: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """exp(q·kᵀ) (n, T, L) and its sums (n, T, 1) in fp32, or where these over- or underflow, softmax(q·kᵀ) and ones.

    q: (n, T, d). k: (n, L, d). rows: n of those of `_rows`.

    Normalised queries and keys make scores of a few units, so that the largest need not be taken away first.
    """
    share = torch.bmm(q, k.mT).exp_()
    if rows.numel():
        share *= rows
    total = share.sum(dim=-1, keepdim=True, dtype=torch.float32)
    if not total.numel() or (total.min() > 1 / SUMS_UP_TO and total.max() < SUMS_UP_TO):
        return share, total
    scores = torch.bmm(q, k.mT)
    if rows.numel():
        scores = scores.masked_fill(rows == 0, -torch.inf)
    return scores.softmax(dim=-1), torch.ones_like(total)


def _blocks(*tensors: Tensor) -> zip[tuple[Tensor, ...]]:
    """The tensors' heads (their first axis) in blocks; the last two tensors are queries or keys, and values."""
    queries, keys = tensors[0].shape[1], tensors[-1].shape[1]
    heads = max(1, SCORES_AT_ONCE // (queries * keys))
    return zip(*(tensor.split(heads) for tensor in tensors), strict=True)
