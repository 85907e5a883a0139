"""A class token: below the latents outside of the network, beside the patches within it, and always kept."""

import pytest
import torch

from micro_diffusion.backbone.class_token import ClassToken, class_features, noise_shape
from micro_diffusion.backbone.dit import SparseDiT
from tests.backbone.test_dit import inputs, small

FEATURES, ROWS = 64, 2
"""Of latents with 4 channels and 8 cells in a row."""


def tall(**changes):
    x, level, text = inputs(**changes)
    vector = torch.randn(len(x), FEATURES, generator=torch.Generator().manual_seed(4))
    return ClassToken(FEATURES, 32).join(x, vector), level, text


def test_joining_and_splitting_are_inverse():
    token, latents, vector = ClassToken(FEATURES, 32), torch.randn(3, 4, 6, 8), torch.randn(3, FEATURES)
    x = token.join(latents, vector)
    assert x.shape == (3, 4, 6 + ROWS, 8) and torch.equal(x[:, :, :6], latents)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(token.split(x), (latents, vector), strict=True))
    mask = token.join_mask(torch.zeros(3, 1, 6, 8, dtype=torch.bool), 4, value=True)
    assert mask.dtype == torch.bool and mask.shape == (3, 1, 8, 8) and mask[:, :, 6:].all() and not mask[:, :, :6].any()


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("keep", [None, torch.tensor([[0, 5], [15, 3], [7, 8]])], ids=["every patch", "masked"])
def test_image_and_token_see_each_other(keep, rotary):
    network = small(class_token=FEATURES, rotary=rotary, mixer_convolution=True)
    x, level, text = tall()
    made = network(x, level, text, keep)
    assert made.value.shape == x.shape == (3, 4, 8 + ROWS, 8)
    other_token, other_image = x.clone(), x.clone()
    other_token[:, :, 8:] += 1
    other_image[:, :, :8] += 1
    by_token, by_image = (network(y, level, text, keep).value - made.value for y in (other_token, other_image))
    assert by_token[:, :, :8].abs().max() > 1e-3 and by_image[:, :, 8:].abs().max() > 1e-3
    if keep is not None:
        assert made.visible is not None and made.visible[:, :, 8:].all()
        assert (made.visible[:, 0, :8].sum(dim=(1, 2)) == 2 * 4).all()
        assert not made.value.masked_select(~made.visible).any()


@pytest.mark.parametrize("rotary", [False, True])
def test_keeping_every_patch_in_any_order_equals_no_mask(rotary):
    network = small(class_token=FEATURES, experts=0, rotary=rotary)
    everything = torch.randperm(16, generator=torch.Generator().manual_seed(2)).expand(3, -1)
    prediction = network(*tall(), everything)
    torch.testing.assert_close(prediction.value, network(*tall()).value, rtol=1e-4, atol=1e-4)
    assert prediction.visible is not None and prediction.visible.all()


def test_prepared_captions_give_the_same():
    network, (x, level, text) = small(class_token=FEATURES, rotary=True), tall()
    plain = network(x, level, text).value
    torch.testing.assert_close(network(x, level, network.prepare(text)).value, plain, rtol=1e-4, atol=1e-4)


def test_it_is_trained_and_begins_at_zero():
    torch.manual_seed(0)
    sizes = {"dim": 32, "depth": 2, "head_dim": 8, "caption_dim": 12, "mixer_dim": 32, "multiple_of": 8}
    network = SparseDiT(input_size=8, in_channels=4, patch_size=2, class_token=FEATURES, **sizes)
    assert not network(*tall()).value.any()
    network = small(class_token=FEATURES).requires_grad_(True)
    network(*tall()).value.square().mean().backward()
    assert network.class_token is not None
    assert all(p.grad is not None and p.grad.any() for p in network.class_token.parameters())
    assert all(p.grad is not None for p in network.parameters())
    grouped = [id(p) for group in network.parameter_groups() for p in group["parameters"]]
    assert sorted(grouped) == sorted(id(p) for p in network.parameters())


def test_what_is_denoised_is_higher():
    network = small(class_token=FEATURES)
    assert class_features(network) == FEATURES and noise_shape(network, (8, 16)) == (4, 9, 16)
    assert class_features(small()) == 0 and noise_shape(small(), (8, 8)) == (4, 8, 8)
    with pytest.raises(ValueError, match="64 numbers fills no whole rows of 4 channels and 24 cells; set backbone.cla"):
        noise_shape(network, (8, 24))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_token": 40}, "of 40 numbers fills no whole rows of 4 channels and 8 cells"),
        ({"class_token": 64, "further_sizes": [[8, 6]]}, "fills no whole rows of 4 channels and 6 cells"),
        ({"class_token": 64, "route": (1, 2)}, r"class_token=64 does not go with route=\[1, 2\]; leave out one"),
        ({"class_token": 64, "image_channels": 4}, "class_token=64 does not go with image_channels=4; leave out"),
    ],
)
def test_what_does_not_go_with_it_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes)


def test_latents_without_the_rows_are_refused():
    with pytest.raises(ValueError, match=r"latents are \(4, 6, 8\) .* built for \(4, 8, 8\)"):
        small(class_token=FEATURES)(*inputs())
