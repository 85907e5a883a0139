"""What is computed again gives the results and gradients of the plain way, and keeps less."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from micro_diffusion.backbone import recomputation
from micro_diffusion.backbone.recomputation import activated_product, modulated_norm, recomputed
from micro_diffusion.performance.counting import count_saved_bytes


@pytest.fixture(autouse=True, params=[0, 2**30], ids=["large", "small"])
def kept_below(request, monkeypatch) -> int:
    monkeypatch.setattr(recomputation, "KEPT_BELOW", request.param)
    return request.param


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
    equal(recomputed(lambda x, y: x.sin() * y, x, y, tokens=x), x.sin() * y, [x, y])


@pytest.mark.parametrize("shape", [(5, 6), (2, 6, 5)], ids=["one matrix", "experts"])
def test_activated_product(shape):
    weight, x = random(*shape), random(2, 4, 6)
    expected = functional.gelu(x) @ (weight.mT if weight.ndim == 2 else weight)
    equal(activated_product(functional.gelu, weight, x, tokens=x), expected, [weight, x])
    with torch.no_grad():
        torch.testing.assert_close(activated_product(functional.gelu, weight, x, tokens=x), expected)


def test_one_gradient_of_a_matrix_for_all_samples():
    weight, x = random(5, 6), random(7, 4, 6)
    made = activated_product(functional.gelu, weight, x, tokens=x)
    with FlopCounterMode(display=False) as counter:
        made.sum().backward()
    operations = counter.get_flop_counts()["Global"]
    assert torch.ops.aten.bmm not in operations and operations[torch.ops.aten.mm] == 2 * 2 * 7 * 4 * 6 * 5


def test_modulated_root_mean_square():
    norm = nn.RMSNorm(6, eps=1e-3, dtype=torch.float64)
    nn.init.normal_(norm.weight)
    x, shift, scale = random(2, 4, 6), random(2, 1, 6), random(2, 1, 6)
    size = (x.square().mean(dim=-1, keepdim=True) + 1e-3).sqrt()
    made, expected = modulated_norm(norm, x, shift, scale), x / size * norm.weight * (1 + scale) + shift
    equal(made, expected, [x, shift, scale, norm.weight])


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


def test_the_norm_of_bf16_is_computed_in_fp32():
    norm, x = nn.LayerNorm(64, bias=False), torch.randn(2, 8, 64, dtype=torch.bfloat16, requires_grad=True)
    shift, scale = torch.randn(2, 2, 1, 64, dtype=torch.bfloat16)
    made, expected = modulated_norm(norm, x, shift, scale), plain_norm(norm, x.float(), shift, scale).bfloat16()
    torch.testing.assert_close(made, expected)
    weight = torch.randn_like(made)
    ours, theirs = (torch.autograd.grad(y, [x, norm.weight], weight) for y in (made, expected))
    assert [y.dtype for y in ours] == [torch.bfloat16, torch.float32]
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("kept_below", [0], indirect=True)
def test_only_what_enters_is_kept():
    norm, x = nn.LayerNorm(64, bias=False), torch.randn(2, 8, 64, requires_grad=True)
    shift, scale = torch.randn(2, 2, 1, 64)
    kept = count_saved_bytes(lambda: modulated_norm(norm, x, shift, scale), norm)
    statistics = 2 * 2 * 8 * 4
    assert kept == x.nbytes + shift.nbytes + scale.nbytes + statistics  # shift and scale share their memory
    weight, y = torch.randn(32, 64, requires_grad=True), torch.randn(2, 8, 64, requires_grad=True)
    assert (
        count_saved_bytes(lambda: activated_product(functional.gelu, weight, y, tokens=y), norm)
        == weight.nbytes + y.nbytes
    )
