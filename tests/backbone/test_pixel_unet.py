"""The UNet for pixels: published sizes, conditions, and that no argument is without effect."""

from functools import partial
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from micro_diffusion.backbone.backbone import Backbone
from micro_diffusion.backbone.pixel_blocks import ChannelRmsNorm
from micro_diffusion.backbone.pixel_resampling import CrossEmbedding, downsampling, upsampling
from micro_diffusion.backbone.pixel_unet import PixelUNet
from micro_diffusion.checkpoint import parameter_count
from micro_diffusion.condition import Condition
from micro_diffusion.performance.counting import count_flops
from micro_diffusion.training.config_checks.resolvers import register_resolvers

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SMALL = {
    "input_size": 8,
    "in_channels": 3,
    "caption_dim": 5,
    "dim": 8,
    "dim_mults": (1, 2),
    "heads": 2,
    "head_dim": 4,
    "text_latents": 3,
    "max_text_length": 6,
}

register_resolvers()


def small(**changes) -> PixelUNet:
    """A network in which every weight matters (nothing is zero)."""
    torch.manual_seed(0)
    network = PixelUNet(**{**SMALL, **changes}).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter += 0.2 * torch.randn_like(parameter)
    return network


def condition(batch=3, length=4, image=0, level=False) -> Condition:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(batch, length, 5, generator=generator)
    mask = torch.arange(length) < torch.tensor([[2], [3], [4]])[:batch]
    seen = torch.randn(batch, image, 8, 8, generator=generator) if image else None
    return Condition(tokens, mask, seen, torch.linspace(0.1, 0.3, batch) if level else None)


def inputs(batch=3):
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(2)), torch.linspace(-1, 1, batch)


def predicted(network: PixelUNet, told: Condition | None = None) -> torch.Tensor:
    return network(*inputs(), told or condition()).value


def test_it_is_a_backbone_and_a_new_one_predicts_zero():
    network = PixelUNet(**SMALL)
    assert isinstance(network, Backbone)
    value = network(*inputs(), condition()).value
    assert value.shape == (3, 3, 8, 8)
    assert not value.any()


@pytest.mark.parametrize(
    "changes",
    [
        {"memory_efficient": True},
        {"self_attention": ["none", "linear"]},
        {"cross_attention": [False, True]},
        {"self_attention": "none"},
        {"middle_attention_depth": 0},
        {"attention_depth": 2},
        {"blocks": [1, 2]},
        {"blocks": 0},
        {"ff_mult": 3},
        {"context_dim": 12},
        {"level_rows": 1},
        {"level_features": 4},
        {"text_latents": 0},
        {"init_dim": 16},
        {"input_kernels": [7]},
        {"downsampling_kernels": [2, 4]},
        {"pixel_shuffle": False},
        {"norm_groups": 2},
        {"global_context": False},
        {"scale_skips": False},
        {"input_to_output": True},
        {"combine_levels": True},
        {"final_block": False},
        {"final_kernel": 1},
        {"heads": 4},
    ],
    ids=str,
)
def test_every_argument_changes_the_network(changes):
    value = predicted(small(**changes))
    assert value.shape == (3, 3, 8, 8)
    assert value.isfinite().all()
    assert not torch.allclose(value, predicted(small()))


def test_every_parameter_has_a_gradient_and_one_group():
    network = small(
        blocks=2, self_attention=["linear", "full"], memory_efficient=True, image_channels=3, takes_image_level=True
    ).requires_grad_()
    told = condition(image=3, level=True)
    mixed = told._replace(tokens=told.tokens.index_fill(0, torch.tensor([1]), 0))  # the null vector too
    network(*inputs(), mixed).value.square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []
    grouped = [id(p) for group in network.parameter_groups() for p in group["parameters"]]
    assert sorted(grouped) == sorted(id(p) for p in network.parameters())


def test_muon_takes_hidden_kernels_but_depthwise_ones():
    network = small(self_attention="linear", blocks=1)
    groups = {group["name"]: {id(p) for p in group["parameters"]} for group in network.parameter_groups()}
    names = {name: p for name, p in network.named_parameters() if id(p) in groups["matrices"]}
    assert any(p.ndim == 4 and p.shape[-1] == 3 for p in names.values())
    assert [name for name in names if name.startswith(("input.", "final.", "text.", "level."))] == []
    assert [name for name in names if "neighbours" in name or "gate.score" in name] == []


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_the_norm_of_a_cell(dtype, error, order):
    norm = ChannelRmsNorm(6)
    with torch.no_grad():
        norm.gain.copy_(torch.rand(6) + 0.5)
    x = torch.randn(2, 6, 3, 5).to(memory_format=order)
    expected = 6**0.5 * x / x.norm(dim=1, keepdim=True) * norm.gain[:, None, None]
    made = norm(x.to(dtype))
    assert made.dtype == dtype
    torch.testing.assert_close(made.float(), expected, rtol=error, atol=error)


def test_recomputation_changes_no_gradient():
    gradients = []
    for again in (False, True):
        network = small(activation_checkpointing=again).requires_grad_()
        network(*inputs(), condition()).value.square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
    assert torch.equal(*gradients)


def test_masked_tokens_are_as_zero_ones_and_a_null_caption_is_what_it_learned():
    network, told = small(), condition()
    assert told.mask is not None
    noisy = told._replace(tokens=torch.where(told.mask[:, :, None], told.tokens, 9.0))
    zeroed = told._replace(tokens=torch.where(told.mask[:, :, None], told.tokens, 0.0), mask=None)
    torch.testing.assert_close(predicted(network, noisy), predicted(network, zeroed))
    x, level = inputs()
    before = network(x, level, told.null()).value
    torch.testing.assert_close(network(x, level, Condition(torch.zeros(3, 4, 5))).value, before)
    network.text.null_tokens.add_(1.0)
    assert not torch.allclose(network(x, level, told.null()).value, before)
    shown = predicted(network)
    network.text.null_vector.add_(1.0)
    torch.testing.assert_close(predicted(network), shown)  # captions have vectors of their own


def test_the_image_and_both_levels_are_told():
    network = small(image_channels=3, takes_image_level=True)
    told = condition(image=3, level=True)
    value = predicted(network, told)
    assert told.image is not None
    assert told.image_level is not None
    for other in (told._replace(image=told.image.flip(0)), told._replace(image_level=told.image_level + 0.1)):
        assert not torch.allclose(predicted(network, other), value)
    x, level = inputs()
    assert not torch.allclose(network(x, level + 0.1, told).value, value)


@pytest.mark.parametrize(
    ("changes", "told", "message"),
    [
        ({}, condition(image=3), "conditioning image is .* but the network takes none"),
        ({"image_channels": 3}, condition(), "takes a conditioning image of 3 channels, but is given none"),
        ({"image_channels": 3}, condition(image=3, level=True), "is told, but the network does not"),
        ({"image_channels": 3, "takes_image_level": True}, condition(image=3), "is not told, but the network takes it"),
        ({"caption_dim": 7}, condition(), "features of width 5, but the network was built for 7"),
        ({"max_text_length": 3}, condition(), "captions have 4 tokens, but the network was built for 3"),
        ({}, condition()._replace(mask=torch.ones(3, 2, dtype=torch.bool)), "mask is \\(3, 2\\)"),
    ],
)
def test_a_condition_that_does_not_fit_is_refused(changes, told, message):
    with pytest.raises(ValueError, match=message):
        predicted(small(**changes), told)


def test_any_size_that_its_levels_divide_is_taken_and_no_other():
    network = small()
    assert network(torch.zeros(3, 3, 6, 10), torch.zeros(3), condition()).value.shape == (3, 3, 6, 10)
    with pytest.raises(ValueError, match="sides that divide by 2"):
        network(torch.zeros(3, 3, 6, 9), torch.zeros(3), condition())


def test_masked_patches_are_refused():
    with pytest.raises(ValueError, match="no patches that could be masked"):
        small()(*inputs(), condition(), torch.zeros(3, 1, dtype=torch.long))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks": [1]}, "backbone.blocks has 1 values for 2 levels"),
        ({"self_attention": "some"}, "self_attention is 'some'"),
        ({"takes_image_level": True}, "image_channels is 0"),
        ({"norm_groups": 3}, "do not divide among norm_groups=3"),
        ({"input_kernels": [4]}, "set them to odd numbers"),
        ({"downsampling_kernels": [3]}, "set them to even numbers"),
        ({"self_attention": "none", "attention_depth": 2}, "has no effect"),
        ({"input_size": (8, 9)}, "sides that divide by 2"),
        ({"heads": 0}, "backbone.heads is 0"),
        ({"level_features": 3}, "an even number"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        PixelUNet(**{**SMALL, **changes})


def test_resampling_keeps_shapes_and_begins_without_a_chequered_pattern():
    x = torch.randn(2, 6, 4, 4)
    for down in (downsampling(6, 10), downsampling(6, 10, [2, 4])):
        assert down(x).shape == (2, 10, 2, 2)
    assert CrossEmbedding(6, 10, [3, 7, 15])(x).shape == (2, 10, 4, 4)
    larger = upsampling(6, 10, pixel_shuffle=True)(x)
    assert larger.shape == upsampling(6, 10, pixel_shuffle=False)(x).shape == (2, 10, 8, 8)
    cells = larger.unflatten(3, (4, 2)).unflatten(2, (4, 2))
    torch.testing.assert_close(cells, cells[:, :, :, :1, :, :1].expand_as(cells))


SIZES = {
    # side in pixels, parameters, forward GFLOP of one image: with captions of 256 tokens of width 4096
    "imagen_base_64": (64, 1_627_314_980, 1009),
    "imagen_sr_256": (256, 732_429_970, 783),
    "imagen_sr_1024": (1024, 721_637_778, 12_458),
    # with captions of 18 tokens of width 192
    "pixel_small": (16, 5_653_842, 0.4763),
    "pixel_sr_small": (32, 4_203_852, 0.30461),
}


@pytest.mark.parametrize("size", SIZES)
def test_sizes_have_their_parameters_and_their_cost(size):
    side, parameters, gflop = SIZES[size]
    encoder = ["text_encoder=t5", "text_encoder.max_length=256"] if "imagen" in size else ["text_encoder=tiny"]
    changes = [f"backbone={size}", f"resolution={side}", "autoencoder=identity", "machine=cpu", *encoder]
    changes += ["image_conditioner=low_resolution"] if "sr" in size else []
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("256_pretrain", changes)
    told = config.text_encoder
    with torch.device("meta"):
        network = instantiate(config.backbone, _convert_="all")
        condition = Condition(torch.zeros(1, told.max_length, told.dim))
        x, level = torch.zeros(1, 3, side, side), torch.zeros(1)
        if network.image_channels:
            condition = condition._replace(image=x, image_level=level)
        work = partial(network, x, level, condition)
        assert parameter_count(network) == parameters
        assert count_flops(work) == pytest.approx(gflop * 1e9, rel=0.001)
