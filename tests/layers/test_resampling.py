"""Halving and doubling: sizes, and what pooling and interpolation mean."""

import pytest
import torch
from torch import nn

from micro_diffusion.layers.resampling import Downsampling, Upsampling


def bare(module: nn.Sequential) -> nn.Sequential:
    """Without norm, and with a convolution that changes nothing."""
    nn.init.dirac_(module[1].weight)
    nn.init.zeros_(module[1].bias)
    return nn.Sequential(*list(module)[:2])


@pytest.mark.parametrize("kind", ["average", "max", "convolution"])
def test_downsampling_halves(kind):
    assert Downsampling(4, 6, kind)(torch.randn(2, 4, 8, 6)).shape == (2, 6, 4, 3)


@pytest.mark.parametrize("kind", ["nearest", "bilinear", "bicubic", "transposed"])
def test_upsampling_doubles(kind):
    assert Upsampling(4, 8, kind)(torch.randn(2, 4, 4, 3)).shape == (2, 8, 8, 6)


def test_average_and_max_are_of_the_cells_they_cover():
    x = torch.tensor([[0.0, 1.0], [2.0, 5.0]]).repeat(1, 1, 2, 2)
    assert (bare(Downsampling(1, 1, "average"))(x) == 2).all()
    assert (bare(Downsampling(1, 1, "max"))(x) == 5).all()


def test_upsampling_keeps_a_plane():
    x = torch.full((1, 1, 3, 3), 2.0)
    for kind in ("nearest", "bilinear", "bicubic"):
        torch.testing.assert_close(bare(Upsampling(1, 1, kind))(x), torch.full((1, 1, 6, 6), 2.0))


def test_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match="downsampling is 'mean'; set it to one of average, max, convolution"):
        Downsampling(4, 4, "mean")
    with pytest.raises(ValueError, match="upsampling is 'linear'; set it to one of nearest"):
        Upsampling(4, 4, "linear")
