"""Operations of convolutions, with and without groups, forwards and backwards."""

import pytest
import torch
from torch import nn

from micro_diffusion.performance.counting import count_flops


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_a_convolution_and_both_its_gradients_cost_the_same(groups: int):
    with torch.device("meta"):
        layer, x = nn.Conv2d(8, 8, 3, padding=1, groups=groups), torch.empty(2, 8, 5, 7, requires_grad=True)
        forward = count_flops(lambda: layer(x))
        assert forward == 2 * (2 * 5 * 7) * 8 * (8 // groups) * 9
        assert count_flops(lambda: layer(x).sum().backward()) == 3 * forward
        x.requires_grad_(False)
        assert count_flops(lambda: layer(x).sum().backward()) == 2 * forward
