"""Backbones that see an image besides: nothing changes until they learn, and it is prepared once like captions."""

from __future__ import annotations

import pytest
import torch

from micro_diffusion.backbone.conv_transformer import ConvTransformer
from micro_diffusion.backbone.dit import SparseDiT
from micro_diffusion.backbone.widening import widened
from micro_diffusion.checkpoint import initialise_from, load_backbone, save_weights, write_config
from micro_diffusion.condition import Condition
from tests.backbone.test_dit import inputs, small
from tests.run_folder import BACKBONE, CONFIG, make_run, random_backbone


def seen(condition: Condition, channels=5, level=True) -> Condition:
    generator = torch.Generator().manual_seed(5)
    image = torch.randn(len(condition.tokens), channels, 8, 8, generator=generator)
    levels = torch.tensor([0.0, 0.2, 1.0])[: len(image)]
    return condition._replace(image=image, image_level=levels if level else None)


def test_image_and_level_change_the_prediction():
    x, level, text = inputs()
    network, condition = small(image_channels=5, takes_image_level=True), seen(text)
    assert condition.image is not None and condition.image_level is not None
    base = network(x, level, condition).value
    for changed in ({"image": -condition.image}, {"image_level": condition.image_level + 1}):
        assert not torch.allclose(network(x, level, condition._replace(**changed)).value, base, atol=1e-3)
    assert base.isfinite().all()  # at level 0 too


@pytest.mark.parametrize("null_rows", [0, 3])
def test_a_prepared_image_gives_the_same(null_rows):
    x, level, text = inputs()
    network, condition = small(image_channels=5, takes_image_level=True, use_caption_mask=True), seen(text)
    both = condition.after_null() if null_rows else condition
    x, level = (torch.cat([y[:null_rows], y]) for y in (x, level))
    plain = network(x, level, both).value
    prepared = network.prepare(condition, null_rows=null_rows, levels=level.unique())
    assert (network(x, level, prepared).value - plain).abs().max() <= 1e-5 * plain.abs().max()
    rest = network(x[null_rows:], level[null_rows:], prepared.without_null()).value
    assert (rest - plain[null_rows:]).abs().max() <= 1e-5 * plain.abs().max()


def test_masked_patches_are_seen_by_the_mixer_with_their_image():
    x, level, text = inputs()
    network, condition = small(image_channels=5, takes_image_level=True), seen(text)
    assert condition.image is not None
    keep = torch.tensor([[0, 5]]).expand(3, -1)
    made = network(x, level, condition, keep)
    assert condition.image is not None and made.visible is not None and made.visible.sum() == 3 * 2 * 4
    assert not torch.equal(network(x, level, condition._replace(image=-condition.image), keep).value, made.value)


@pytest.mark.parametrize(
    ("changes", "channels", "level", "message"),
    [
        ({}, 5, False, r"conditioning image is \(5, 8, 8\), but the network takes none; set backbone.image_channels"),
        ({"image_channels": 5}, None, False, "takes a conditioning image of 5 channels, but is given none"),
        ({"image_channels": 5}, 4, False, r"\(4, 8, 8\), but the network takes one of \(5, 8, 8\)"),
        ({"image_channels": 5}, 5, True, "is told, but the network does not take it; set backbone.takes_image_level=t"),
        ({"image_channels": 5, "takes_image_level": True}, 5, False, "is not told, but the network takes it"),
    ],
)
def test_a_condition_that_is_not_taken_is_an_error(changes, channels, level, message):
    x, told, text = inputs()
    network = small(**changes)
    condition = text if channels is None else seen(text, channels, level)
    for take in (lambda: network(x, told, condition), lambda: network.prepare(condition)):
        with pytest.raises(ValueError, match=message):
            take()


def test_a_level_without_an_image_is_refused():
    with pytest.raises(ValueError, match="takes_image_level has no effect with image_channels=0"):
        small(takes_image_level=True)


WIDE = {"image_channels": 4, "takes_image_level": True}


def test_a_widened_network_first_predicts_what_the_one_that_it_starts_from_does(tmp_path):
    make_run(tmp_path, ema=1)
    wide = SparseDiT(**{**BACKBONE, **WIDE}).eval()
    initialise_from(wide, tmp_path)
    generator = torch.Generator().manual_seed(0)
    x, level = torch.randn(2, 3, 16, 16, generator=generator), torch.tensor([0.1, -0.3])
    text = Condition(torch.randn(2, 7, 24, generator=generator))
    shown = text._replace(image=torch.randn(2, 4, 16, 16, generator=generator), image_level=torch.tensor([0.3, 2.0]))
    assert torch.equal(wide(x, level, shown).value, random_backbone(1)(x, level, text).value)
    wide(x, level, shown).value.square().mean().backward()
    assert wide.image_embedding is not None and wide.image_embedding.weight.grad.abs().sum() > 0  # it can learn


def test_weights_with_an_image_are_taken_as_they_are_and_a_run_must_have_them(tmp_path):
    wide = SparseDiT(**{**BACKBONE, **WIDE})
    for parameter in wide.parameters():
        torch.nn.init.normal_(parameter)
    state = wide.state_dict()
    save_weights(tmp_path, state, "ema")
    initialise_from(again := SparseDiT(**{**BACKBONE, **WIDE}), tmp_path)
    assert all(torch.equal(value, state[key]) for key, value in again.state_dict().items())
    node = {"_target_": "micro_diffusion.backbone.dit.SparseDiT", **BACKBONE, **WIDE}
    save_weights(tmp_path, {key: value for key, value in state.items() if "image" not in key}, "ema")
    write_config(tmp_path, {**CONFIG, "backbone": node})
    with pytest.raises(ValueError, match="5 missing .*image_embedding.weight"):
        load_backbone(tmp_path)


def test_other_differences_are_named_all_the_same(tmp_path):
    make_run(tmp_path, ema=1)
    with pytest.raises(ValueError, match="does not fit the network"):
        initialise_from(SparseDiT(**{**BACKBONE, **WIDE, "depth": 3}), tmp_path)


def test_a_layer_that_sees_both_is_padded_with_zeros():
    """As the first convolution of a UNet."""

    class Joined(torch.nn.Module):
        def __init__(self, image_channels):
            super().__init__()
            self.in_channels, self.image_channels = 3, image_channels
            self.input, self.other = torch.nn.Conv2d(3 + image_channels, 6, 3), torch.nn.Linear(6, 6)

    narrow, wide = Joined(0), Joined(4)
    wide.load_state_dict(widened(narrow.state_dict(), wide))
    x, image = torch.randn(2, 3, 8, 8), torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(wide.input(torch.cat([x, image], 1)), narrow.input(x))
    assert torch.equal(wide.other.weight, narrow.other.weight) and wide.input.weight[:, 3:].abs().sum() == 0


def test_the_convolutional_transformer_is_widened_too():
    shape = {"input_size": 8, "in_channels": 3, "patch_size": 2, "dim": 16, "depth": 1, "heads": 2, "caption_dim": 6}
    torch.manual_seed(0)
    narrow, wide = ConvTransformer(**shape), ConvTransformer(**shape, image_channels=4)
    wide.load_state_dict(widened(narrow.state_dict(), wide))
    x, level, text = torch.randn(2, 3, 8, 8), torch.rand(2), Condition(torch.randn(2, 1, 6))
    shown = text._replace(image=torch.randn(2, 4, 8, 8))
    assert torch.equal(wide(x, level, shown).value, narrow(x, level, text).value)
