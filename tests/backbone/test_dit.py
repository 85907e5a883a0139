"""The sparse diffusion transformer: sizes, masking, captions, positions, optimizer groups."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from micro_diffusion.backbone.dit import SparseDiT
from micro_diffusion.backbone.experts import ExpertChoice
from micro_diffusion.condition import Condition
from micro_diffusion.machine.precision import autocast

SIZES = {
    "tiny": {"dim": 512, "depth": 16, "head_dim": 32, "mixer_depth": 4, "mixer_dim": 512},
    "xl": {"dim": 1024, "depth": 28, "head_dim": 64, "mixer_depth": 6, "mixer_dim": 768},
}
PARAMETERS = {"tiny": 200_692_752, "xl": 1_165_442_320}
# Forward GFLOP of the public code for one 256 px sample at mask 0 and 0.75, one-hot expert dispatch included.
PUBLIC_GFLOP = {"tiny": (45.0, 20.7), "xl": (246.3, 95.7)}


def published(size: str) -> SparseDiT:
    with torch.device("meta"):
        return SparseDiT(input_size=32, in_channels=4, patch_size=2, caption_dim=1024, **SIZES[size])


SMALL = {
    "input_size": 8,
    "in_channels": 4,
    "patch_size": 2,
    "dim": 32,
    "depth": 3,
    "head_dim": 8,
    "caption_dim": 12,
    "multiple_of": 8,
    "mixer_depth": 2,
    "mixer_dim": 24,
    "experts": 4,
}


def small(**changes) -> SparseDiT:
    """A small network in which every weight matters (nothing is zero)."""
    network = SparseDiT(**{**SMALL, **changes})
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return network.eval().requires_grad_(False)


def inputs(batch=3, size=(8, 8), length=5):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 4, *size, generator=generator)
    mask = torch.arange(length) < torch.tensor([[2], [4], [5]])[:batch]
    return x, torch.linspace(-1, 1, batch), Condition(torch.randn(batch, length, 12, generator=generator), mask)


@pytest.mark.parametrize("size", SIZES)
def test_published_sizes_have_exactly_their_parameters(size):
    assert sum(p.numel() for p in published(size).parameters()) == PARAMETERS[size]


@pytest.mark.parametrize("size", SIZES)
def test_cost_is_below_the_public_code(size):
    network = published(size)
    with torch.device("meta"):
        for kept, reference in zip((None, 64), PUBLIC_GFLOP[size], strict=True):
            keep = None if kept is None else torch.zeros(1, kept, dtype=torch.long)
            with FlopCounterMode(display=False) as counter:
                network(torch.zeros(1, 4, 32, 32), torch.zeros(1), Condition(torch.zeros(1, 77, 1024)), keep)
            assert 0.9 * reference < counter.get_total_flops() / 1e9 < reference


def test_a_new_network_predicts_zero():
    network = SparseDiT(
        input_size=8, in_channels=4, patch_size=2, dim=32, depth=2, head_dim=8, caption_dim=12, mixer_dim=32
    )
    assert not network(*inputs()).value.any()


def test_masked_patches_are_zero_and_marked():
    keep = torch.tensor([[0, 5], [15, 3], [7, 8]])
    prediction = small()(*inputs(), keep)
    assert prediction.visible is not None
    for sample, kept in enumerate(keep.tolist()):
        for patch in range(16):
            cells = (
                sample,
                slice(None),
                slice(patch // 4 * 2, patch // 4 * 2 + 2),
                slice(patch % 4 * 2, patch % 4 * 2 + 2),
            )
            assert prediction.visible[cells].all() == (patch in kept)
            assert prediction.value[cells].any() == (patch in kept)


@pytest.mark.parametrize("rotary", [False, True])
def test_keeping_every_patch_equals_no_mask_in_any_order(rotary):
    network, everything = (
        small(experts=0, rotary=rotary),
        torch.randperm(16, generator=torch.Generator().manual_seed(2)),
    )
    prediction = network(*inputs(), everything.expand(3, -1))
    torch.testing.assert_close(prediction.value, network(*inputs()).value, rtol=1e-4, atol=1e-4)
    assert prediction.visible.all()


def test_samples_of_a_batch_do_not_touch_each_other():
    x, level, text = inputs()
    together = small()(x, level, text).value
    alone = small()(x[1:2], level[1:2], Condition(text.tokens[1:2], text.mask[1:2])).value
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("keep", [None, torch.zeros(0, 4, dtype=torch.long)], ids=["every patch", "masked"])
def test_an_empty_batch_gives_an_empty_prediction(precision, keep):
    network = small(use_caption_mask=True).requires_grad_(True)
    with autocast("cpu", precision):
        made = network(*inputs(batch=0), keep).value
    assert made.shape == (0, 4, 8, 8)
    made.float().sum().backward()
    assert not any(parameter.grad.any() for parameter in network.parameters())


@pytest.mark.parametrize("use_mask", [True, False])
def test_padding_rows_count_only_without_the_caption_mask(use_mask):
    x, level, text = inputs()
    noisy = torch.where(text.mask[:, :, None], text.tokens, text.tokens + 1)
    network = small(use_caption_mask=use_mask)
    unchanged = torch.allclose(network(x, level, text).value, network(x, level, text._replace(tokens=noisy)).value)
    assert unchanged == use_mask


def test_a_null_caption_does_not_depend_on_its_length():
    x, level, text = inputs()
    null = torch.zeros_like(text.tokens)
    network = small(use_caption_mask=True)
    made = [network(x, level, Condition(null[:, :n], text.mask[:, :n])).value for n in (3, 5)]
    torch.testing.assert_close(*made, rtol=1e-4, atol=1e-4)


def test_noise_level_and_caption_change_the_prediction():
    x, level, text = inputs()
    network = small()
    base = network(x, level, text).value
    assert not torch.allclose(base, network(x, level + 1, text).value, atol=1e-3)
    assert not torch.allclose(base, network(x, level, text._replace(tokens=text.tokens.flip(0))).value, atol=1e-3)


@pytest.mark.parametrize("use_mask", [True, False])
@pytest.mark.parametrize("null_rows", [0, 3])
def test_prepared_captions_give_the_same(use_mask, null_rows):
    x, level, text = inputs()
    network = small(use_caption_mask=use_mask, rotary=True)
    tokens = torch.cat([torch.zeros(null_rows, 5, 12), text.tokens])
    x, level = (torch.cat([y[:null_rows], y]) for y in (x, level))
    plain = network(x, level, Condition(tokens, torch.cat([text.mask[:null_rows], text.mask]))).value
    made = network(x, level, network.prepare(text, null_rows=null_rows)).value
    assert (made - plain).abs().max() <= 1e-5 * plain.abs().max()


@pytest.mark.parametrize("convolution", [False, True])
def test_rectangular_grids(convolution):
    network = small(input_size=(4, 12), mixer_convolution=convolution)
    x, level, text = inputs(size=(4, 12))
    assert network.patches == 12
    assert network(x, level, text).value.shape == x.shape
    with pytest.raises(ValueError, match=r"built for \(4, 4, 12\)"):
        network(x.mT, level, text)


def test_the_mixers_convolution_sees_neighbours_on_the_grid():
    network = small(mixer_convolution=True, mixer_depth=1, depth=1, experts=0, qkv_ratio=(1, 1), mlp_ratio=(1, 1))
    for name, parameter in network.named_parameters():
        if "attention.out" in name:
            parameter.zero_()
    x, level, text = inputs()
    touched = x.clone()
    touched[:, :, 2:4, 2:4] += 1  # the patch in row 1, column 1 of 4 × 4
    changed = (network(touched, level, text).value != network(x, level, text).value).any(dim=1)[0, ::2, ::2]
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[:3, :3] = True
    assert torch.equal(changed, expected)


def test_resizing_changes_positions_and_no_weight():
    network = small()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network.resize(16, 2.0)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert network(*inputs(size=(16, 16))).value.shape == (3, 4, 16, 16)
    # Every second position of the larger grid is a position of the smaller one.
    torch.testing.assert_close(network.positions.view(8, 8, -1)[::2, ::2], small().positions.view(4, 4, -1))


def test_positions_are_not_saved():
    assert "positions" not in small().state_dict()


def test_groups_hold_every_parameter_once_and_experts_at_half_the_rate():
    network = small()
    groups = network.parameter_groups()
    held = [id(p) for group in groups for p in group["parameters"]]
    assert sorted(held) == sorted(id(p) for p in network.parameters())
    experts = {id(p) for m in network.modules() if isinstance(m, ExpertChoice) for p in (m.w1, m.w2)}
    halved = {id(p) for group in groups if group["lr_scale"] == 0.5 for p in group["parameters"]}
    assert halved == experts
    assert {group["lr_scale"] for group in groups} == {0.5, 1.0}
    assert all(p.ndim >= 2 for group in groups if group["matrices"] for p in group["parameters"])
    assert all(not group["decay"] for group in groups for p in group["parameters"] if p.ndim == 1)


def test_sparse_blocks_are_every_second_and_never_the_last():
    network = small(depth=4, mixer_depth=4)
    sparse = [[isinstance(block.ffn, ExpertChoice) for block in stack] for stack in (network.mixer, network.blocks)]
    assert sparse == [[False, True, False, True], [False, True, False, False]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_size": 7}, "7×7 is no multiple of patch_size=2"),
        ({"dim": 36}, "dim=36 is no multiple of head_dim=8"),
        ({"qkv_ratio": (1.0, 1.0, 1.0, 1.0)}, "qkv_ratio has 4 values for 3 blocks"),
        ({"expert_capacity": 5.0}, "expert_capacity is 5.0"),
        ({"input_size": 0}, "0×0 is no multiple of patch_size=2"),
        ({"position_scale": math.inf}, "position_scale is inf; set it above 0"),
    ],
)
def test_impossible_networks_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes)


def test_captions_of_another_width_are_refused_with_what_to_set():
    x, level, text = inputs()
    with pytest.raises(ValueError, match=r"width 7, .* built for 12; set backbone.caption_dim=7"):
        small()(x, level, text._replace(tokens=text.tokens[..., :7]))


def test_one_sample_can_be_learned():
    torch.manual_seed(0)
    network = SparseDiT(
        input_size=8,
        in_channels=4,
        patch_size=2,
        dim=32,
        depth=2,
        head_dim=8,
        caption_dim=12,
        mixer_dim=32,
        multiple_of=8,
    )
    x, level, text = inputs()
    target = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(150):
        loss = (network(x, level, text).value - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
