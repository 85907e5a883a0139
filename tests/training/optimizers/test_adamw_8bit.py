"""Moments of 8 bits: training gets nearly as far as with fp32, resumes with the same bits, and holds less."""

from __future__ import annotations

import sys

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from micro_diffusion.training.optimizers.adamw import adamw
from micro_diffusion.training.optimizers.adamw_8bit import adamw_8bit
from tests.small_training import losses, make_latents, succeeded, train_command, train_here

SETTINGS = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1}
QUANTISED = ["optimizer=adamw_8bit", "optimizer.lr=1e-3", "trainer.max_duration=6ba", "trainer.eval_interval=6ba"]
BF16 = ["model.weight_dtype=bf16", "model.cpu_precision=bf16"]


def pair(dtype=torch.float32, make=adamw_8bit, shape=(32, 128)):
    """A parameter and its optimizer."""
    value = torch.randn(shape, generator=torch.Generator().manual_seed(0)).bfloat16()
    weight = nn.Parameter(value.to(dtype))
    group = {"name": "g", "parameters": [weight], "lr_scale": 0.5, "decay": True, "matrices": True}
    return weight, make([group], **SETTINGS)  # pyright: ignore[reportArgumentType]


def take_steps(steps, *pairs, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        gradient = torch.randn(pairs[0][0].shape, generator=generator) + 0.3
        for weight, optimizer in pairs:
            weight.grad = gradient.to(weight.dtype)
            optimizer.step()


@pytest.mark.parametrize(("dtype", "share"), [(torch.float32, 0.03), (torch.bfloat16, 0.35)])
def test_the_weights_follow_those_of_fp32(dtype, share):
    """bf16 numbers are up to 0.8 percent apart, and are rounded at random."""
    quantised, plain = pair(dtype), pair(make=adamw)
    start = plain[0].detach().clone()
    take_steps(200, quantised, plain)
    moved = (plain[0].detach() - start).abs().mean()
    assert (quantised[0].detach().float() - plain[0].detach()).abs().mean() < share * moved


def test_steps_that_bf16_alone_would_lose_add_up():
    weight, optimizer = pair(torch.bfloat16)
    start = weight.detach().float()
    for _ in range(100):
        weight.grad = torch.full_like(weight, 1e-3)
        optimizer.param_groups[0]["lr"] = 1e-5  # a hundredth of the distance between bf16 numbers near 1
        optimizer.step()
    expected = (start * (1 - 1e-5 * 0.1) ** 100).mean() - 100 * 1e-5
    assert (weight.detach().float().mean() - expected).abs() < 0.1 * 100 * 1e-5


def test_bytes_of_a_number():
    weight, optimizer = pair(torch.bfloat16, shape=(256, 256))
    take_steps(1, (weight, optimizer))
    moments = [optimizer.state[weight][key] for key in ("exp_avg", "exp_avg_sq")]
    held = sum(part.nbytes for moment in moments for part in (moment.codes, moment.scale, moment.qmap))
    assert 2 < held / weight.numel() < 2.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_its_state_returns_bit_for_bit(dtype, tmp_path):
    """And what is drawn in between by others changes nothing, nor is theirs changed by it."""
    weight, optimizer = pair(dtype)
    take_steps(3, (weight, optimizer))
    again, restored = pair(dtype)
    again.data.copy_(weight.data)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    restored.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    take_steps(3, (weight, optimizer), seed=2)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    take_steps(3, (again, restored), seed=2)
    assert torch.equal(weight, again) and torch.equal(before, torch.get_rng_state())


def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path):
    make_latents(tmp_path, count=24)
    command = [*QUANTISED, *BF16, "trainer.save_interval=4ba"]
    train_here(tmp_path, "exp_name=whole", *command)
    kill = ["+callbacks.kill._target_=killer.KillAt", "+callbacks.kill.step=5"]
    assert train_command(tmp_path, "exp_name=killed", *command, *kill).returncode != 0
    assert "resumes at step 4" in succeeded(train_command(tmp_path, "exp_name=killed", *command))
    whole, killed = tmp_path / "runs/whole", tmp_path / "runs/killed"
    assert losses(killed) == losses(whole)
    expected, found = load_file(whole / "model.safetensors"), load_file(killed / "model.safetensors")
    assert [key for key in expected if not torch.equal(expected[key], found[key])] == []
    checkpoint = f"trainer.load_path={whole}/checkpoints/latest-rank0.pt"
    succeeded(train_command(tmp_path, "exp_name=on", *command, checkpoint, "trainer.load_weights_only=false"))


def test_without_torchao_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "micro_diffusion.training.optimizers.quantised_adamw", None)
    with pytest.raises(ValueError, match=r"needs the library torchao, .* pip install 'micro_diffusion\[finetune\]'"):
        pair()
