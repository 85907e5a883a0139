"""Seconds of the ways to compute attention, among which `backbone/attention.py` chooses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from micro_diffusion.backbone.attention import plain_attention
from micro_diffusion.backbone.blockwise_attention import blockwise_attention
from micro_diffusion.performance.measurement import Measurement
from micro_diffusion.performance.report import Row

HEADS, HEAD_DIM = 16, 32
"""Those of the backbone tiny."""

LENGTHS = ((64, 64), (256, 77), (256, 256), (1024, 1024))
"""Queries and tokens attended to: a quarter of the patches of 256 px, patches and caption, all patches, 512 px."""


def _heads(*tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (B, T, heads · head_dim) -> (B, heads, T, head_dim), as the layers split them."""
    q, k, v = (y.unflatten(-1, (HEADS, HEAD_DIM)).transpose(1, 2) for y in tokens)
    return q, k, v


WAYS: dict[str, Callable[..., Tensor]] = {
    "fused": lambda *tokens: functional.scaled_dot_product_attention(*_heads(*tokens)),
    "products": lambda *tokens: plain_attention(*_heads(*tokens)),
    "blockwise": lambda *tokens: blockwise_attention(_heads, *tokens),
}


def ways_of_attention(measurement: Measurement, *, dtype: torch.dtype) -> Row:
    """Seconds of forward and backward pass at random queries, keys and values, by lengths and way."""
    generator = torch.Generator().manual_seed(0)

    def drawn(tokens: int) -> Tensor:
        shape = (measurement.batch_size, tokens, HEADS * HEAD_DIM)
        return torch.randn(shape, generator=generator).to(measurement.device, dtype).requires_grad_()

    row: Row = {}
    for queries, attended in LENGTHS:
        inputs = [drawn(tokens) for tokens in (queries, attended, attended)]
        for way, attention in WAYS.items():
            step = partial(_forward_and_backward, attention, inputs)
            row[f"seconds {queries} × {attended} {way}"] = measurement.timed(step).seconds
    return row


def _forward_and_backward(attention: Callable[..., Tensor], inputs: Sequence[Tensor]) -> None:
    made = attention(*inputs)
    torch.autograd.grad(made, inputs, made)
