"""The convolutional transformer: sizes, positions, conditions. test_tld_parity.py has the public networks' numbers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from micro_diffusion.backbone.backbone import Backbone
from micro_diffusion.backbone.conv_transformer import ConvTransformer
from micro_diffusion.backbone.fourier_embedding import FourierEmbedding, frequencies
from micro_diffusion.condition import Condition
from micro_diffusion.tld_weights import BUFFERS, import_tld, infer_tld_config, released_tld_shapes

KEYS = Path(__file__).parents[1] / "fixtures" / "tld_keys.json"
SMALL: dict[str, Any] = {
    "input_size": 8,
    "in_channels": 4,
    "patch_size": 2,
    "dim": 24,
    "depth": 2,
    "heads": 3,
    "caption_dim": 6,
    "noise_features": 8,
}


def small(**changes: Any) -> ConvTransformer:
    torch.manual_seed(0)
    return ConvTransformer(**SMALL | changes).eval()


def inputs(batch: int = 2, size: tuple[int, int] = (8, 8), tokens: int = 1) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(1)
    return torch.randn(batch, 4, *size), torch.rand(batch), torch.randn(batch, tokens, 6)


def test_it_is_a_backbone_that_groups_every_parameter_once():
    network = small(image_channels=5)
    assert isinstance(network, Backbone)
    grouped = [id(p) for group in network.parameter_groups() for p in group["parameters"]]
    assert sorted(grouped) == sorted(id(p) for p in network.parameters())
    assert all(p.ndim == 2 for group in network.parameter_groups() if group["matrices"] for p in group["parameters"])


def test_the_published_keys_are_those_of_101_164_352_parameters():
    shapes = {key: tuple(shape) for key, shape in json.loads(KEYS.read_text()).items()}
    with torch.device("meta"):
        network = ConvTransformer(**infer_tld_config(shapes, "legacy"))
        state = {key: torch.empty(shape) for key, shape in shapes.items() if key not in BUFFERS}
    assert released_tld_shapes(network) == {key: shape for key, shape in shapes.items() if key not in BUFFERS}
    imported = import_tld(state, network)
    assert {key: value.shape for key, value in imported.items()} == {
        key: value.shape for key, value in network.state_dict().items()
    }
    assert sum(p.numel() for p in network.parameters()) == 101_164_352


def test_positions_are_stretched_so_that_content_keeps_its_place():
    """A ramp over the columns of the table stays that ramp, cell centre on cell centre, at twice the size."""
    network = small()
    columns = torch.arange(4.0)
    with torch.no_grad():
        network.positions.copy_(columns.expand_as(network.positions))
    network.resize(16, 2.0)
    made = network.stretched_positions().view(8, 8, 24)
    expected = ((torch.arange(8) + 0.5) / 2 - 0.5).clamp(0, 3)
    torch.testing.assert_close(made, expected[None, :, None].expand(8, 8, 24))
    network.resize(4, 0.5)
    torch.testing.assert_close(network.stretched_positions()[:, 0], torch.tensor([0.5, 2.5, 0.5, 2.5]))


def test_a_rectangle_is_numbered_row_by_row_and_not_transposed():
    network = small(input_size=(4, 12))
    rows, columns = torch.meshgrid(torch.arange(2.0), torch.arange(6.0), indexing="ij")
    with torch.no_grad():
        network.positions.copy_((10 * rows + columns).expand_as(network.positions))
    assert network.stretched_positions()[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15]
    network.resize((8, 24), 2.0)
    x, level, tokens = inputs(size=(8, 24))
    assert network(x, level, Condition(tokens)).value.shape == (2, 4, 8, 24)
    stretched = network.stretched_positions()[:, 0].view(4, 12)
    assert (stretched.diff(dim=1) >= 0).all() and (stretched.diff(dim=0) >= 0).all()


def test_a_later_stage_takes_the_weights_of_the_one_before():
    first, later = small(), small(input_size=16, position_scale=2.0)
    later.load_state_dict(first.state_dict())
    first.resize(16, 2.0)
    x, level, tokens = inputs(size=(16, 16))
    torch.testing.assert_close(later(x, level, Condition(tokens)), first(x, level, Condition(tokens)))


def test_a_conditioning_image_changes_nothing_at_first_and_then_something():
    network, plain = small(image_channels=5), small()
    plain.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith("image_")})
    x, level, tokens = inputs()
    conditions = [Condition(tokens, image=torch.randn(2, 5, 8, 8)) for _ in range(2)]
    assert torch.equal(network(x, level, conditions[0]).value, plain(x, level, Condition(tokens)).value)
    torch.nn.init.normal_(network.image_embedding.weight)
    first, second = (network(x, level, condition).value for condition in conditions)
    assert (first - second).abs().max() > 1e-3


def test_levels_are_told_in_fp32_whatever_the_weights_are():
    embedding = FourierEmbedding(256, 16)
    seen: list[torch.Tensor] = []
    embedding.fc1.register_forward_pre_hook(lambda module, given: seen.append(given[0].float()))
    level = torch.linspace(0, 1, 50)
    embedding(level)
    embedding.bfloat16()(level)
    assert (seen[0] - seen[1]).abs().max() < 1 / 256  # the rounding of a sine, and not of its angle


def test_frequencies_rise_from_one_to_a_thousand_turns():
    made = frequencies(256) / (2 * torch.pi)
    torch.testing.assert_close(made[[0, -1]], torch.tensor([1.0, 1000.0]))
    torch.testing.assert_close(made[1:] / made[:-1], torch.full((127,), 1000 ** (1 / 127)), rtol=1e-4, atol=0)


def test_checkpointed_blocks_have_the_same_gradients():
    x, level, tokens = inputs()
    gradients = []
    for activation_checkpointing in (False, True):
        network = small(activation_checkpointing=activation_checkpointing)
        network(x, level, Condition(tokens)).value.square().sum().backward()
        gradients.append([p.grad for p in network.parameters()])
    torch.testing.assert_close(*gradients)


def test_rows_of_a_caption_that_the_mask_excludes_are_left_out():
    x, level, tokens = inputs(tokens=3)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    other = tokens.masked_fill(~mask[:, :, None], 7.0)
    network = small(use_caption_mask=True)
    made = [network(x, level, Condition(t, mask)).value for t in (tokens, other)]
    torch.testing.assert_close(*made)
    unmasked = small()
    assert (unmasked(x, level, Condition(tokens, mask)).value - unmasked(x, level, Condition(other, mask)).value).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 5}, "backbone.heads is 5, which does not divide dim=24"),
        ({"cross_heads": 0}, "backbone.cross_heads is 0"),
        ({"norm_placement": "middle"}, "norm_placement is 'middle'; set it to pre or post"),
        ({"input_size": 7}, "no multiple of patch_size=2"),
        ({"position_scale": 3.0}, "position_scale=3 does not divide the 4×4 patches"),
        ({"noise_features": 7}, "noise_features is 7; set it to an even number"),
    ],
)
def test_sizes_that_do_not_fit_are_one_sentence(changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        small(**changes)


def test_what_it_does_not_take_is_refused():
    x, level, tokens = inputs()
    image = torch.zeros(2, 3, 8, 8)
    with pytest.raises(ValueError, match="need every patch; set model.train_mask_ratio=0"):
        small()(x, level, Condition(tokens), torch.tensor([[0], [1]]))
    with pytest.raises(ValueError, match="features of width 5, but the network was built for 6"):
        small()(x, level, Condition(tokens[..., :5]))
    with pytest.raises(ValueError, match="conditioning image"):
        small()(x, level, Condition(tokens, image=image))
    with pytest.raises(ValueError, match="conditioning image"):
        small(image_channels=3)(x, level, Condition(tokens))
    with pytest.raises(ValueError, match="noise level"):
        small(image_channels=3)(x, level, Condition(tokens, image=image, image_level=torch.ones(2)))
    with pytest.raises(ValueError, match="latents are"):
        small()(x[:, :3], level, Condition(tokens))
