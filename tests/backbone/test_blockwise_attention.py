"""Attention a few heads at a time computes what the fused kernel computes, and keeps no scores."""

import pytest
import torch
from torch.nn import functional

from micro_diffusion.backbone import attention, blockwise_attention
from micro_diffusion.performance.counting import count_saved_bytes


def heads(tokens: int, captions: int) -> list[torch.Tensor]:
    """q, k and v of 2 samples with 3 heads of 8 each, from fresh random numbers."""
    return [torch.randn(2, 3, n, 8, requires_grad=True) for n in (tokens, captions, captions)]


@pytest.mark.parametrize("at_once", [1, 35 * 20 * 4, 2**20], ids=["one head", "four heads of six", "all heads"])
def test_equal_to_the_fused_kernel(at_once, monkeypatch):
    monkeypatch.setattr(blockwise_attention, "SCORES_AT_ONCE", at_once)
    inputs = heads(35, 20)
    made, fused = (
        blockwise_attention.blockwise_attention(lambda *y: y, *inputs),
        functional.scaled_dot_product_attention(*inputs),
    )
    torch.testing.assert_close(made, fused, rtol=1e-5, atol=1e-5)
    weight = torch.randn_like(made)
    for ours, theirs in zip(*(torch.autograd.grad(y, inputs, weight) for y in (made, fused)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_hidden_rows_do_not_count():
    q, k, v = heads(35, 20)
    mask = torch.arange(20) < torch.tensor([[3], [20]])
    made = blockwise_attention.blockwise_attention(lambda *y: y, q, k, v, mask=mask)
    fused = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None])
    torch.testing.assert_close(made, fused, rtol=1e-5, atol=1e-5)
    weight = torch.randn_like(made)
    for ours, theirs in zip(*(torch.autograd.grad(y, (q, k, v), weight) for y in (made, fused)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_scores_beyond_the_range_of_exponentials(masked):
    q, k, v = (12 * y.detach() for y in heads(35, 20))
    mask = torch.arange(20) < torch.tensor([[3], [20]]) if masked else None
    assert (q @ k.mT).abs().max() > 100
    made = blockwise_attention.blockwise_attention(lambda *y: y, q, k, v, mask=mask)
    rows = None if mask is None else mask[:, None, None]
    fused = functional.scaled_dot_product_attention(q, k, v, attn_mask=rows)
    torch.testing.assert_close(made, fused, rtol=1e-3, atol=1e-3)


def test_a_cpu_takes_it_in_bf16_and_keeps_what_came_in():
    q, k, v = (torch.randn(2, 256, 64, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))

    def prepare(*inputs):
        return tuple(y / 2 for y in inputs)

    made = attention.attend(q, k, v, 32, prepare=prepare)
    kept = count_saved_bytes(lambda: attention.attend(q, k, v, 32, prepare=prepare), torch.nn.Identity())
    assert kept == q.nbytes + k.nbytes + v.nbytes
    q1, k1, v1 = (y.float() / 2 for y in (q, k, v))
    expected = attention.attend(q1, k1, v1, 32)
    torch.testing.assert_close(made.float(), expected, rtol=0.02, atol=0.02)
    weight = torch.randn_like(made)
    for ours, theirs in zip(
        torch.autograd.grad(made, (q, k, v), weight),
        torch.autograd.grad(expected, (q, k, v), weight.float()),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.05)
