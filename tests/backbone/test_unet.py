"""The UNet for latents: its sizes, what it is told, what it refuses, and that it learns."""

import pytest
import torch
from torch import nn

from micro_diffusion.backbone.backbone import Backbone
from micro_diffusion.backbone.unet import UNet
from micro_diffusion.backbone.widening import widened
from micro_diffusion.condition import Condition

SMALL = {
    "input_size": 8,
    "in_channels": 3,
    "caption_dim": 5,
    "width": 8,
    "multipliers": (1, 2),
    "blocks": 1,
    "groups": 4,
    "attention": (1,),
    "heads": 2,
    "head_dim": 4,
    "level_features": 8,
    "level_dim": 16,
}


def build(**changes) -> UNet:
    """With a last layer that is not zero, or it would say nothing."""
    torch.manual_seed(0)
    network = UNet(**{**SMALL, **changes})
    nn.init.normal_(network.final.weight)
    return network.eval()


def classes(*numbers: int | None) -> Condition:
    tokens = torch.zeros(len(numbers), 1, 5)
    for row, number in enumerate(numbers):
        if number is not None:
            tokens[row, 0, number] = 1
    return Condition(tokens)


def text(length: int = 4, **changes) -> Condition:
    return Condition(torch.randn(2, length, 5, generator=torch.Generator().manual_seed(1)), **changes)


def latents(height: int = 8, width: int = 8) -> torch.Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(2))


LEVEL = torch.tensor([3.0, 40.0])


def test_is_a_backbone_whose_parameters_have_one_group_each():
    network = build(image_channels=2, takes_image_level=True, cross_attention=True)
    assert isinstance(network, Backbone)
    grouped = [id(p) for group in network.parameter_groups() for p in group["parameters"]]
    assert sorted(grouped) == sorted(map(id, network.parameters()))


@pytest.mark.parametrize("size", [(8, 8), (4, 12)])
@pytest.mark.parametrize("multipliers", [(1,), (1, 2), (2, 1, 2)])
@pytest.mark.parametrize("blocks", [1, 3])
def test_sizes(size, multipliers, blocks):
    network = build(multipliers=multipliers, blocks=blocks, attention=(0,))
    assert network(latents(*size), LEVEL, classes(0, 1)).value.shape == (2, 3, *size)
    assert network.patch_size == 2 ** (len(multipliers) - 1)


@pytest.mark.parametrize("downsampling", ["average", "max", "convolution"])
@pytest.mark.parametrize("upsampling", ["nearest", "bilinear", "transposed"])
def test_resampling_is_chosen(downsampling, upsampling):
    network = build(downsampling_kind=downsampling, upsampling_kind=upsampling)
    assert network(latents(), LEVEL, classes(0, 1)).value.shape == (2, 3, 8, 8)


def test_begins_at_zero():
    assert (UNet(**SMALL)(latents(), LEVEL, classes(0, 1)).value == 0).all()


def test_samples_do_not_mix_and_the_level_and_class_of_each_count():
    network = build()
    both = network(latents(), LEVEL, classes(0, 1)).value
    alone = network(latents()[1:], LEVEL[1:], classes(1)).value
    torch.testing.assert_close(both[1:], alone)
    for level, condition in ((LEVEL + 1, classes(0, 1)), (LEVEL, classes(0, 2)), (LEVEL, classes(0, None))):
        changed = network(latents(), level, condition).value
        assert not torch.allclose(changed[1], both[1], atol=1e-3)
    torch.testing.assert_close(network(latents(), LEVEL, classes(0, 2)).value[0], both[0])


def test_a_class_is_an_embedding_and_none_adds_nothing():
    """One-hot tokens pick columns of a matrix, as an embedding does its rows."""
    network = build()
    embedding = nn.Embedding.from_pretrained(network.class_embedding.weight.T)
    told = network._told(LEVEL, classes(3, None)).vector
    without = network._told(LEVEL, classes(None, None)).vector
    torch.testing.assert_close(told - without, torch.stack([embedding(torch.tensor(3)), torch.zeros(16)]))


def test_text_is_attended_to_and_masked_rows_are_not():
    network = build(cross_attention=True, use_caption_mask=True)
    mask = torch.tensor([[True, True, False, False]] * 2)
    shown = network(latents(), LEVEL, text(mask=mask)).value
    torch.testing.assert_close(shown, network(latents(), LEVEL, Condition(text().tokens[:, :2])).value)
    # The same mean, so that only attention can tell them apart.
    change = torch.tensor([1.0, -2.0, 1.0, 0.0, 3.0])
    other = text().tokens + torch.stack([change, -change, 0 * change, 0 * change])
    assert not torch.allclose(network(latents(), LEVEL, Condition(other, mask)).value, shown, atol=1e-3)


def test_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        network = build(cross_attention=True, activation_checkpointing=checkpointing)
        network(latents(), LEVEL, text()).value.square().sum().backward()
        gradients.append(network.first.weight.grad)
    assert gradients[0].abs().sum() > 0
    torch.testing.assert_close(gradients[1], gradients[0])


def test_an_image_is_ignored_at_first_and_seen_later():
    """A network that was trained without goes on from its own predictions."""
    plain = build()
    network = build(image_channels=2, takes_image_level=True)
    network.load_state_dict(widened(plain.state_dict(), network))
    image = torch.randn(2, 2, 8, 8)
    condition = classes(0, 1)._replace(image=image, image_level=torch.tensor([0.0, 2.0]))
    before = plain(latents(), LEVEL, classes(0, 1)).value
    torch.testing.assert_close(network(latents(), LEVEL, condition).value, before)
    nn.init.normal_(network.first.weight)
    assert not torch.allclose(network(latents(), LEVEL, condition).value, before, atol=1e-2)


def test_learns_the_classes():
    torch.manual_seed(0)
    network, targets = UNet(**SMALL), torch.randn(2, 3, 8, 8)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = (network(torch.zeros(2, 3, 8, 8), torch.zeros(2), classes(0, 1)).value - targets).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": 3}, "level 0 of the UNet has 8 channels, which do not divide into groups=3"),
        ({"attention": (2,)}, r"backbone\.attention names level 2; set it to levels from 0 to 1"),
        ({"attention_kind": "cosine"}, "attention is 'cosine'; set it to linear or full"),
        ({"input_size": 9}, "input_size 9×9 does not halve as often .* choose multiples of 2"),
        ({"multipliers": ()}, r"backbone\.multipliers is 0; set it to at least 1"),
        ({"level_features": 7}, r"backbone\.level_features is 7; set it to an even number"),
        ({"takes_image_level": True}, "takes_image_level has no effect with image_channels=0"),
        ({"position_scale": 0.0}, r"position_scale is 0\.0; set it above 0"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        build(**change)


def test_what_it_does_not_take_is_refused():
    network = build()
    with pytest.raises(ValueError, match="every patch; set model.train_mask_ratio=0"):
        network(latents(), LEVEL, classes(0, 1), keep=torch.zeros(2, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"\(3, 8, 7\) .* takes 3 channels and sides that are multiples of 2"):
        network(latents(8, 7), LEVEL, classes(0, 1))
    with pytest.raises(ValueError, match="features of width 6, .* set backbone.caption_dim=6"):
        network(latents(), LEVEL, Condition(torch.zeros(2, 1, 6)))
    with pytest.raises(ValueError, match="4 tokens, but .* set backbone.cross_attention=true, or choose an encoder"):
        network(latents(), LEVEL, text())
    with pytest.raises(ValueError, match="the network takes none; set backbone.image_channels"):
        network(latents(), LEVEL, classes(0, 1)._replace(image=torch.zeros(2, 1, 8, 8)))
