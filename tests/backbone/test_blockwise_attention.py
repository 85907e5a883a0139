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
    made, fused = blockwise_attention.blockwise_attention(*inputs), functional.scaled_dot_product_attention(*inputs)
    torch.testing.assert_close(made, fused, rtol=1e-5, atol=1e-5)
    weight = torch.randn_like(made)
    for ours, theirs in zip(*(torch.autograd.grad(y, inputs, weight) for y in (made, fused)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_cpu_takes_it_for_many_tokens_in_bf16_and_keeps_no_scores(monkeypatch):
    q, k, v = (torch.randn(2, 256, 64, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))

    def saved() -> int:
        return count_saved_bytes(lambda: attention.attend(q, k, v, 32), torch.nn.Identity())

    blockwise, made = saved(), attention.attend(q, k, v, 32)
    monkeypatch.setattr(attention, "BLOCKWISE_FROM", 2**30)
    scores = 2 * 2 * 256 * 256 * 2
    assert saved() >= blockwise + scores
    torch.testing.assert_close(made, attention.attend(q, k, v, 32), rtol=0.02, atol=0.02)
