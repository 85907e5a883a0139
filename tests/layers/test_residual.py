"""The residual block: standardised filters, scale and shift, shortcuts."""

import pytest
import torch

from micro_diffusion.layers.residual import ResidualBlock, StandardisedConv2d, check_groups


def test_filters_are_standardised():
    """Their scale and mean do not matter, and each has variance 1 over its inputs."""
    torch.manual_seed(0)
    convolution = StandardisedConv2d(4, 6, 3, padding=1, bias=False)
    x = torch.randn(2, 4, 5, 5)
    before = convolution(x)
    with torch.no_grad():
        convolution.weight.mul_(3).add_(0.5)
    torch.testing.assert_close(convolution(x), before, atol=2e-3, rtol=2e-3)
    response = StandardisedConv2d(4, 6, 3, bias=False)(torch.eye(36).reshape(36, 4, 3, 3)).reshape(36, 6)
    torch.testing.assert_close(response.mean(dim=0), torch.zeros(6), atol=1e-6, rtol=0)
    torch.testing.assert_close(response.var(dim=0, correction=0), torch.ones(6), atol=1e-2, rtol=0)


@pytest.mark.parametrize("standardised", [True, False])
@pytest.mark.parametrize("out_channels", [8, 12])
def test_sizes(standardised, out_channels):
    block = ResidualBlock(8, out_channels, groups=4, standardised=standardised)
    assert block(torch.randn(2, 8, 5, 7)).shape == (2, out_channels, 5, 7)


def test_the_vector_scales_and_shifts_the_first_unit():
    torch.manual_seed(0)
    block = ResidualBlock(8, 8, groups=4, steering_dim=5)
    x, vector = torch.randn(2, 8, 4, 4), torch.randn(2, 5)
    assert block.steering is not None
    scale, shift = block.steering(torch.nn.functional.silu(vector)).chunk(2, dim=1)
    normed = block.unit1.norm(block.unit1.convolution(x))
    steered = torch.nn.functional.silu(normed * (1 + scale[:, :, None, None]) + shift[:, :, None, None])
    torch.testing.assert_close(block(x, vector), x + block.unit2(steered))
    with pytest.raises(ValueError, match="needs a vector"):
        block(x)


def test_groups_that_do_not_divide_are_refused():
    check_groups(4, width=8)
    with pytest.raises(ValueError, match="the middle has 10 channels, which do not divide into groups=4"):
        check_groups(4, **{"the middle": 10})
