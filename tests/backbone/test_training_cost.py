"""What a training step costs: one graph for the compiler, and memory that checkpointing saves."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch.utils.flop_counter import FlopCounterMode

from micro_diffusion.backbone.dit import SparseDiT
from micro_diffusion.condition import Condition
from micro_diffusion.machine.precision import autocast
from micro_diffusion.performance.counting import count_saved_bytes
from micro_diffusion.training.config_checks.resolvers import register_resolvers

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

register_resolvers()

TINY = {
    "dim": 64,
    "depth": 4,
    "head_dim": 32,
    "mixer_dim": 64,
    "mixer_depth": 2,
    "multiple_of": 64,
}  # few, narrow blocks
NANO = {
    "dim": 192,
    "depth": 6,
    "head_dim": 32,
    "mixer_dim": 192,
    "mixer_depth": 2,
    "mixer_convolution": True,
    "mlp_ratio": (1.0, 4.0),
    "multiple_of": 64,
    "experts": 4,
    "use_caption_mask": True,
}
SHORT = {**NANO, "depth": 3, "mixer_depth": 1}  # a block of each kind, since tracing takes seconds for each
FUSED = {**TINY, "shared_modulation": True, "route": (1, 3), "fusion": True}
KEEP = torch.tensor([[1, 7, 12, 3], [0, 5, 15, 9]])


def network(shape, **changes) -> SparseDiT:
    made = SparseDiT(input_size=8, in_channels=4, patch_size=2, caption_dim=12, **{**shape, **changes})
    generator = torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    return made


def inputs():
    generator = torch.Generator().manual_seed(1)
    text = Condition(torch.randn(2, 5, 12, generator=generator), torch.arange(5) < torch.tensor([[2], [5]]))
    x = torch.randn(2, 4, 8, 8, generator=generator)
    return x, torch.tensor([-0.5, 0.8]), text


def gradients(made, keep) -> list[torch.Tensor]:
    made.zero_grad()
    made(*inputs(), keep).value.square().mean().backward()
    return [parameter.grad.clone() for parameter in made.parameters()]


def assert_same_gradients(made, plain):
    for a, b in zip(made, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * max(1.0, b.abs().max().item()))


@pytest.mark.parametrize(
    ("shape", "keep", "checkpointing"),
    [
        (SHORT, None, False),
        (SHORT, KEEP, True),
        (FUSED, KEEP, True),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [(NANO, None, False), (NANO, KEEP, True), (TINY, None, True), (TINY, KEEP, False)]
        ),
    ],
    ids=[
        *("every patch", "masked checkpointed", "fused routed checkpointed"),
        *("nano", "nano masked checkpointed", "tiny checkpointed", "tiny masked"),
    ],
)
def test_the_network_is_one_graph(shape, keep, checkpointing):
    torch.compiler.reset()
    made = network(shape, activation_checkpointing=checkpointing)
    plain = gradients(made, keep)
    made.compile(fullgraph=True, backend="aot_eager")
    assert_same_gradients(gradients(made, keep), plain)


@pytest.mark.slow
@pytest.mark.parametrize("keep", [None, KEEP], ids=["every patch", "masked"])
def test_the_network_is_one_graph_in_bf16(keep):
    """Up to rounding, since the compiler chooses another way of attention."""
    torch.compiler.reset()
    made = network(NANO)
    with autocast("cpu", "bf16"):
        plain = gradients(made, keep)
        made.compile(fullgraph=True, backend="aot_eager")
        compiled = gradients(made, keep)
    for a, b in zip(compiled, plain, strict=True):
        assert (a - b).norm() < 0.05 * b.norm()


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True], ids=["every patch", "masked"])
@pytest.mark.parametrize("backbone", ["nano", "tiny"])
def test_the_recipes_networks_are_one_graph(backbone, masked):
    """As they are configured for 256 px."""
    torch.compiler.reset()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        made = instantiate(compose("256_pretrain", overrides=[f"backbone={backbone}"]).backbone, _convert_="all")
    generator = torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.02, generator=generator)
    text = Condition(torch.randn(2, 77, 1024, generator=generator), torch.arange(77) < torch.tensor([[9], [77]]))
    x = torch.randn(2, 4, 32, 32, generator=generator)
    keep = torch.stack([torch.randperm(256, generator=generator)[:64] for _ in range(2)]) if masked else None

    def compute() -> list[torch.Tensor]:
        made.zero_grad()
        made(x, torch.tensor([-0.5, 0.8]), text, keep).value.square().mean().backward()
        return [parameter.grad.clone() for parameter in made.parameters()]

    plain = compute()
    made.compile(fullgraph=True, backend="aot_eager")
    assert_same_gradients(compute(), plain)


@pytest.mark.slow
@pytest.mark.parametrize("keep", [None, KEEP], ids=["every patch", "masked"])
def test_the_compiled_network_computes_the_same(keep):
    torch.compiler.reset()
    made = network(NANO)
    plain = gradients(made, keep)
    made.compile(fullgraph=True)
    assert_same_gradients(gradients(made, keep), plain)
    text = inputs()[2]
    with torch.no_grad():
        prepared = made(*inputs()[:2], made.prepare(text)).value
        torch.testing.assert_close(prepared, network(NANO)(*inputs()).value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("keep", [None, KEEP], ids=["every patch", "masked"])
def test_checkpointing_changes_no_gradient(keep):
    made = gradients(network(NANO, activation_checkpointing=True), keep)
    assert_same_gradients(made, gradients(network(NANO), keep))


def saved_bytes(made, keep=None) -> int:
    return count_saved_bytes(lambda: made(*inputs(), keep), made)


def test_checkpointing_keeps_less():
    assert saved_bytes(network(NANO, activation_checkpointing=True)) < 0.25 * saved_bytes(network(NANO))


def test_hidden_patches_need_no_memory_in_the_backbone():
    made = network(NANO, mixer_depth=0, mixer_convolution=False)
    assert saved_bytes(made, KEEP) < 0.6 * saved_bytes(made)  # a quarter of the patches, and the caption


def flops(shape, keep) -> int:
    with torch.device("meta"):
        made = SparseDiT(input_size=32, in_channels=4, patch_size=2, caption_dim=1024, **shape)
        x, level, text = torch.zeros(1, 4, 32, 32), torch.zeros(1), Condition(torch.zeros(1, 77, 1024))
        with FlopCounterMode(display=False) as counter:
            made(x, level, text, keep).value.sum().backward()
    return counter.get_total_flops()


def test_a_step_costs_three_forward_passes_and_no_more():
    """Counted for Tiny/2 at 256 px; a change that makes a step dearer must say so here."""
    tiny = {"dim": 512, "depth": 16, "head_dim": 32, "mixer_dim": 512, "mixer_depth": 4}
    keep = torch.zeros(1, 64, dtype=torch.long, device="meta")
    assert [round(flops(tiny, kept) / 1e9, 1) for kept in (None, keep)] == [127.8, 60.1]
