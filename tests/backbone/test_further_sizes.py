"""One network on latents of several sizes: at each it is what a network of that size alone would be."""

import pytest
import torch

from micro_diffusion.backbone.conv_transformer import ConvTransformer
from micro_diffusion.backbone.dit import SparseDiT
from micro_diffusion.condition import Condition
from micro_diffusion.sampling.pipeline import sized

SIZE, FURTHER = (8, 8), [(6, 10), (10, 6)]


def dit(**changes):
    sizes = {"dim": 32, "depth": 3, "head_dim": 8, "mixer_depth": 1, "mixer_dim": 16, "multiple_of": 8, "experts": 2}
    more = {"mixer_convolution": True, "rotary": True, "expert_capacity": 1.0}
    return SparseDiT(in_channels=3, patch_size=2, caption_dim=5, **sizes, **more, **changes)


def conv_transformer(**changes):
    return ConvTransformer(in_channels=3, patch_size=2, caption_dim=5, dim=32, depth=2, heads=2, **changes)


@pytest.mark.parametrize("make", [dit, conv_transformer])
@pytest.mark.parametrize("size", [SIZE, *FURTHER])
def test_a_further_size_is_as_if_the_network_had_been_resized_to_it(make, size):
    torch.manual_seed(0)
    several, one = make(input_size=8, further_sizes=[list(size) for size in FURTHER]), make(input_size=8)
    with torch.no_grad():
        for parameter in several.parameters():
            parameter.normal_(std=0.1)
    one.load_state_dict(several.state_dict())
    x, level, condition = torch.randn(2, 3, *size), torch.rand(2), Condition(torch.randn(2, 4, 5))
    with torch.no_grad(), sized(one, size):
        torch.testing.assert_close(several(x, level, condition).value, one(x, level, condition).value)
    if make is dit:
        keep = torch.tensor([[0, 3, 5], [1, 2, 14]])
        with torch.no_grad(), sized(one, size):
            shown, expected = several(x, level, condition, keep), one(x, level, condition, keep)
        torch.testing.assert_close(shown.value, expected.value)
        assert shown.visible is not None and shown.visible.shape == (2, 1, *size)


@pytest.mark.parametrize("make", [dit, conv_transformer])
def test_other_sizes_are_refused(make):
    network = make(input_size=8, further_sizes=FURTHER)
    with pytest.raises(ValueError, match=r"\(3, 4, 8\) .* built for \(3, 8, 8\) or \(3, 6, 10\) or \(3, 10, 6\); use"):
        network(torch.zeros(1, 3, 4, 8), torch.zeros(1), Condition(torch.zeros(1, 4, 5)))
    with pytest.raises(ValueError, match=r"further_sizes has \[6\]; write each size as \[height,width\]"):
        make(input_size=8, further_sizes=[[6]])
    with pytest.raises(ValueError, match="no multiple of patch_size=2"):
        make(input_size=8, further_sizes=[[5, 8]])
