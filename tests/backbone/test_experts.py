"""Expert choice against a plain loop over samples and experts."""

import pytest
import torch
from torch.nn import functional

from micro_diffusion.backbone.experts import ExpertChoice


def plain(layer: ExpertChoice, x: torch.Tensor) -> torch.Tensor:
    """The definition, one sample and one expert at a time."""
    out = torch.zeros_like(x)
    count = layer.tokens_per_expert(x.shape[1])
    for sample in range(len(x)):
        scores = layer.gate(x[sample]).softmax(dim=-1)
        for expert in range(layer.experts):
            chosen = scores[:, expert].argsort(descending=True)[:count]
            made = functional.gelu(x[sample, chosen] @ layer.w1[expert]) @ layer.w2[expert]
            out[sample, chosen] += scores[chosen, expert, None] * made
    return out


@pytest.mark.parametrize("capacity", [0.5, 1.0, 2.0, 4.0])
def test_dispatch_equals_the_plain_loop_with_gradients(capacity):
    torch.manual_seed(0)
    layer = ExpertChoice(16, 24, experts=4, capacity=capacity)
    x = torch.randn(3, 12, 16)
    made, expected = (x.clone().requires_grad_() for _ in range(2))
    upstream = torch.randn(3, 12, 16)
    parameters = list(layer.parameters())
    grads = torch.autograd.grad(layer(made), [made, *parameters], upstream)
    reference = torch.autograd.grad(plain(layer, expected), [expected, *parameters], upstream)
    torch.testing.assert_close(layer(x), plain(layer, x), rtol=1e-4, atol=1e-5)
    for grad, wanted in zip(grads, reference, strict=True):
        torch.testing.assert_close(grad, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("tokens", "expected"), [(256, 64), (16, 4), (3, 1), (1, 1)])
def test_an_expert_takes_its_share_and_at_least_one_token(tokens, expected):
    layer = ExpertChoice(4, 8, experts=8, capacity=2.0)
    assert layer.tokens_per_expert(tokens) == expected
    assert torch.isfinite(layer(torch.randn(2, tokens, 4))).all()


def test_runs_under_bf16_autocast():
    layer = ExpertChoice(16, 24, experts=4, capacity=2.0)
    x = torch.randn(2, 8, 16)
    with torch.autocast("cpu", torch.bfloat16):
        made = layer(x)
    torch.testing.assert_close(made.float(), layer(x), rtol=0.1, atol=0.05)
