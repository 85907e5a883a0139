"""What is computed again gives the results and gradients of the plain way, and keeps less."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from micro_diffusion.backbone.recomputation import activated_product, modulated_norm, recomputed
from micro_diffusion.performance.counting import count_saved_bytes


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def plain_norm(norm, x, shift, scale):
    return norm(x) * (1 + scale) + shift


def equal(made: torch.Tensor, expected: torch.Tensor, inputs: list[torch.Tensor]) -> None:
    torch.testing.assert_close(made, expected)
    weight = torch.randn_like(made)
    for ours, theirs in zip(*(torch.autograd.grad(y, inputs, weight) for y in (made, expected)), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_any_function():
    x, y = random(3, 4), random(3, 4)
    equal(recomputed(lambda x, y: x.sin() * y, x, y), x.sin() * y, [x, y])


@pytest.mark.parametrize("stack", [(), (2,)], ids=["one matrix", "experts"])
def test_activated_product(stack):
    weight, x = random(*stack, 6, 5), random(2, 4, 6)
    equal(activated_product(functional.gelu, weight, x), functional.gelu(x) @ weight, [weight, x])


def test_modulated_norm():
    norm = nn.LayerNorm(6, bias=False, dtype=torch.float64)
    nn.init.normal_(norm.weight)
    x, shift, scale = random(2, 5, 6), random(2, 1, 6), random(2, 1, 6)
    made, expected = (f(norm, x, shift, scale) for f in (modulated_norm, plain_norm))
    equal(made, expected, [x, norm.weight, shift, scale])


def test_the_norm_is_rounded_to_what_the_products_take():
    norm, x = nn.LayerNorm(64, bias=False), torch.randn(2, 8, 64, requires_grad=True)
    shift, scale = torch.randn(2, 2, 1, 64, dtype=torch.bfloat16)
    made = modulated_norm(norm, x, shift, scale)
    assert made.dtype == torch.bfloat16
    torch.testing.assert_close(made, plain_norm(norm, x, shift, scale).bfloat16())
    with torch.no_grad():
        torch.testing.assert_close(modulated_norm(norm, x, shift, scale), made)


def test_only_what_enters_is_kept():
    norm, x = nn.LayerNorm(64, bias=False), torch.randn(2, 8, 64, requires_grad=True)
    shift, scale = torch.randn(2, 2, 1, 64)
    kept = count_saved_bytes(lambda: modulated_norm(norm, x, shift, scale), norm)
    statistics = 2 * 2 * 8 * 4
    assert kept == x.nbytes + shift.nbytes + scale.nbytes + statistics  # shift and scale share their memory
    weight, y = torch.randn(64, 32, requires_grad=True), torch.randn(2, 8, 64, requires_grad=True)
    assert count_saved_bytes(lambda: activated_product(functional.gelu, weight, y), norm) == weight.nbytes + y.nbytes
