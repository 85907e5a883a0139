"""What can be switched on in the sparse DiT: routes around blocks, value residuals, other routers and modulations."""

import pytest
import torch

from micro_diffusion.backbone.around_route import AroundRoute
from micro_diffusion.backbone.blocks import Fusion
from micro_diffusion.backbone.dit import SparseDiT
from micro_diffusion.backbone.masking import keep_tokens, put_back
from tests.backbone.test_dit import SMALL, inputs, small

KEEP = torch.tensor([[0, 5, 9, 14], [15, 3, 2, 8], [1, 4, 6, 7]])


def test_tokens_are_put_back_where_they_were():
    tokens, kept = torch.randn(3, 16, 5), torch.randn(3, 4, 5)
    made = put_back(tokens, kept, KEEP)
    assert torch.equal(keep_tokens(made, KEEP), kept)
    others = torch.ones(3, 16, dtype=torch.bool).scatter(1, KEEP, False)
    assert torch.equal(made[others], tokens[others])


def test_a_route_predicts_every_patch_and_leaves_blocks_out():
    """With a route around all blocks, patches that are not kept come out as if there were no blocks."""
    x, level, condition = inputs()
    routed, blockless = small(route=[0, 3]), small(route=[0, 3])
    for block in blockless.blocks:
        block.forward = lambda x, *_, **__: x
    made, plain = routed(x, level, condition, KEEP), blockless(x, level, condition)
    assert made.visible is None
    left_out = torch.ones(3, 16, dtype=torch.bool).scatter(1, KEEP, False).view(3, 1, 4, 4)
    cells = left_out.repeat_interleave(2, 2).repeat_interleave(2, 3).expand_as(x)
    torch.testing.assert_close(made.value[cells], plain.value[cells])
    assert not torch.allclose(made.value[~cells], plain.value[~cells])


def test_a_route_around_nothing_is_no_route_and_without_keep_there_is_none():
    x, level, condition = inputs()
    everything = torch.arange(16).expand(3, 16)
    whole = small()(x, level, condition).value
    torch.testing.assert_close(small(route=[1, 2])(x, level, condition).value, whole)
    torch.testing.assert_close(small(route=[1, 2])(x, level, condition, everything).value, whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("route", [[2, 2], [0, 4], [1]])
def test_a_route_that_is_none_is_refused(route):
    with pytest.raises(ValueError, match=r"route is \[.* 0 <= first < end <= depth=3"):
        small(route=route)


UNIFORM = {"qkv_ratio": [1.0, 1.0], "experts": 0}


def test_values_of_the_first_block_are_mixed_into_the_others():
    """Shares (0, 1) are no residual; with (1, 0) a block's own values do not matter."""
    x, level, condition = inputs()
    plain, mixing = small(**UNIFORM), small(**UNIFORM, value_residual=True)
    mixing.load_state_dict(plain.state_dict(), strict=False)

    def made(first: float, own: float) -> torch.Tensor:
        for block in list(mixing.blocks)[1:]:
            block.value_mix.copy_(torch.tensor([first, own]))
        return mixing(x, level, condition).value

    torch.testing.assert_close(made(0.0, 1.0), plain(x, level, condition).value)
    first = made(1.0, 0.0)
    assert not torch.allclose(first, made(0.5, 0.5))
    for block in list(mixing.blocks)[1:]:
        block.attention.qkv.weight.chunk(3)[2].normal_()
    torch.testing.assert_close(made(1.0, 0.0), first)
    next(iter(mixing.blocks)).attention.qkv.weight.chunk(3)[2].normal_()
    assert not torch.allclose(made(1.0, 0.0), first)


def test_a_prepared_caption_mixes_values_too():
    x, level, condition = inputs()
    network = small(**UNIFORM, value_residual=True)
    level = level[:1].expand(3)
    prepared = network.prepare(condition, levels=level[:1])
    torch.testing.assert_close(
        network(x, level, prepared).value, network(x, level, condition).value, atol=1e-3, rtol=1e-3
    )


def test_shares_of_values_are_learned_as_vectors():
    groups = small(**UNIFORM, value_residual=True).parameter_groups()
    vectors = next(group for group in groups if group["name"] == "vectors")["parameters"]
    assert sum(parameter.shape == (2,) for parameter in vectors) == 2


def test_value_residuals_need_equal_widths():
    with pytest.raises(ValueError, match="value_residual needs one attention width"):
        small(value_residual=True, qkv_ratio=[0.25, 2.0])
    with pytest.raises(ValueError, match="value_residual does not go with a route"):
        small(value_residual=True, route=[1, 2], **UNIFORM)


@pytest.mark.parametrize("unmodulated", [False, True])
def test_an_unmodulated_router_does_not_see_the_noise_level(unmodulated):
    _, block = small(unmodulated_router=unmodulated).mixer
    seen = []
    block.ffn.register_forward_hook(
        lambda module, args, named, out: seen.append(named.get("routed_by", args[0])), with_kwargs=True
    )
    for parameter in block.modulation.parameters():
        parameter[: 3 * 24].zero_()  # of the attention, which the tokens have passed before
    x, caption = torch.randn(2, 16, 24), torch.randn(2, 5, 24)
    for c in torch.randn(2, 2, 32):
        block(x, c, caption)
    assert torch.equal(*seen) == unmodulated


def test_root_mean_squares_take_the_place_of_every_norm_of_the_blocks():
    network = small(norm="rms")
    kinds = {name.rsplit(".", 1)[-1]: type(m) for name, m in network.named_modules() if "norm" in name}
    assert {kinds[name] for name in ("norm3", "final_norm")} == {torch.nn.RMSNorm}
    x, level, condition = inputs()
    made = network(x, level, condition)
    assert made.value.isfinite().all()
    assert not torch.allclose(made.value, small()(x, level, condition).value)


@pytest.mark.parametrize("mixer_depth", [0, 2])
def test_a_shared_modulation_is_that_of_blocks_with_the_same_map_and_their_own_offsets(mixer_depth):
    """Linear layers of equal weights, whose biases differ by the offsets, do the same one by one."""
    x, level, condition = inputs()
    shared, own = small(shared_modulation=True, mixer_depth=mixer_depth), small(mixer_depth=mixer_depth)
    own.load_state_dict({k: v for k, v in shared.state_dict().items() if k in own.state_dict()}, strict=False)
    for stack, told in ((own.mixer, shared.mixer_modulation), (own.blocks, shared.modulation)):
        theirs = shared.mixer if stack is own.mixer else shared.blocks
        for block, other in zip(stack, theirs, strict=True):
            block.modulation.load_state_dict({"weight": told.weight, "bias": told.bias + other.modulation.bias})
    made = shared(x, level, condition).value
    torch.testing.assert_close(made, own(x, level, condition).value, atol=1e-3, rtol=1e-3)
    level = level[:1].expand(3)
    prepared = shared.prepare(condition, levels=level[:1])
    torch.testing.assert_close(
        shared(x, level, prepared).value, shared(x, level, condition).value, atol=1e-3, rtol=1e-3
    )


def test_a_shared_modulation_saves_its_map_in_every_block_but_one():
    def count(network):
        return sum(parameter.numel() for parameter in network.parameters())

    saved = count(small()) - count(small(shared_modulation=True))
    assert saved == (2 - 1) * 6 * 24 * 32 - 6 * 24 + (3 - 1) * 6 * 32 * 32 - 6 * 32
    groups = {group["name"]: group["parameters"] for group in small(shared_modulation=True).parameter_groups()}
    assert sum(parameter.shape == (6 * 32,) for parameter in groups["vectors"]) == 3 + 1  # offsets, and the one bias
    assert (6 * 32, 32) in [parameter.shape for parameter in groups["embeddings"]]


def test_a_new_network_with_a_shared_modulation_predicts_zero_and_tells_blocks_nothing():
    network = SparseDiT(**{**SMALL, "shared_modulation": True})
    assert not network(*inputs()).value.any()
    assert not any(p.any() for module in (network.modulation, network.mixer_modulation) for p in module.parameters())


def test_a_new_fusion_changes_nothing_where_every_patch_is_on_the_route():
    x, level, condition = inputs()
    plain, fused = small(route=[1, 2]), small(route=[1, 2], fusion=True)
    fused.load_state_dict(plain.state_dict(), strict=False)
    fused.fusion.initialize()
    torch.testing.assert_close(fused(x, level, condition).value, plain(x, level, condition).value)
    everything = torch.arange(16).expand(3, 16)
    made = fused(x, level, condition, everything).value
    torch.testing.assert_close(made, plain(x, level, condition).value, atol=1e-4, rtol=1e-4)


def test_fusion_maps_both_ways_side_by_side():
    fusion = Fusion(6)
    before, kept = torch.randn(3, 16, 6), torch.randn(3, 4, 6)
    with torch.no_grad():
        for parameter in fusion.parameters():
            torch.nn.init.normal_(parameter)
        made = fusion(before, kept, KEEP)
        first, second = fusion.both.weight[:, :6], fusion.both.weight[:, 6:]
        for sample, keep in enumerate(KEEP.tolist()):
            for patch in range(16):
                told = kept[sample, keep.index(patch)] if patch in keep else fusion.absent
                torch.testing.assert_close(made[sample, patch], first @ before[sample, patch] + second @ told)


def test_fusion_predicts_every_patch_and_learns_by_all_of_them():
    x, level, condition = inputs()
    network = small(route=[1, 2], fusion=True).requires_grad_(True)
    made = network(x, level, condition, KEEP)
    assert made.visible is None and made.value.isfinite().all()
    made.value.square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    groups = {group["name"]: group["parameters"] for group in network.parameter_groups()}
    assert any(parameter is network.fusion.both.weight for parameter in groups["matrices"])
    assert sum(len(group) for group in groups.values()) == len(list(network.parameters()))


def test_fusion_needs_a_route():
    with pytest.raises(ValueError, match="fusion has no effect without a route"):
        small(fusion=True)


def dropping(probability: float) -> SparseDiT:
    network = small(route=[1, 2], fusion=True, route_drop=probability)
    with torch.no_grad():
        torch.nn.init.normal_(network.fusion.absent)
    return network


def test_images_without_the_route_are_those_that_go_around_it():
    """What drawing leaves of each image is one of two things, and never anything in training=False."""
    x, level, condition = inputs()
    network = dropping(0.5)
    whole, around = network.eval()(x, level, condition).value, AroundRoute(network)(x, level, condition).value
    assert not torch.allclose(whole, around)
    network.train()
    torch.manual_seed(3)
    kinds = set()
    for _ in range(4):
        made = network(x, level, condition).value
        for image, one, other in zip(made, whole, around, strict=True):
            is_whole, is_around = torch.allclose(image, one, atol=1e-5), torch.allclose(image, other, atol=1e-5)
            assert is_whole != is_around
            kinds.add(is_whole)
    assert kinds == {True, False}


def test_the_network_without_its_route_does_not_ask_the_blocks_on_it():
    x, level, condition = inputs()
    network = dropping(0.5).eval()
    made = AroundRoute(network)(x, level, network.prepare(condition)).value
    network.blocks[1].forward = lambda *_, **__: pytest.fail("a block of the route was called")
    torch.testing.assert_close(AroundRoute(network)(x, level, condition).value, made)


def test_a_network_that_never_went_without_its_route_is_no_weaker_one():
    with pytest.raises(ValueError, match=r"train with backbone\.route_drop=0\.1"):
        AroundRoute(small(route=[1, 2], fusion=True))
    with pytest.raises(ValueError, match="route_drop has no effect without a fusion"):
        small(route=[1, 2], route_drop=0.1)
