"""Weights in bf16: training gets as far as with fp32, resumes with the same bits, and holds less."""

import copy

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from micro_diffusion.training.optimizers import compact_adamw
from micro_diffusion.training.optimizers.adamw import adamw
from micro_diffusion.training.optimizers.compact_adamw import CompactAdamW
from micro_diffusion.training.optimizers.muon import Muon
from tests.small_training import losses, make_latents, train_command, train_here

SETTINGS = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1}
BF16 = ["model.weight_dtype=bf16", "model.cpu_precision=bf16", "optimizer=adamw", "optimizer.lr=1e-3"]


def group(*parameters):
    return [{"name": "g", "parameters": list(parameters), "lr_scale": 0.5, "decay": True, "matrices": True}]


def optimizers(*shape):
    """A bf16 parameter and an fp32 one of the same value, each with its AdamW."""
    value = torch.randn(shape, generator=torch.Generator().manual_seed(0)).bfloat16()
    pair = [nn.Parameter(value.clone()), nn.Parameter(value.float())]
    return [(parameter, adamw(group(parameter), **SETTINGS)) for parameter in pair]


def take_steps(steps, *pairs, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        gradient = torch.randn(pairs[0][0].shape, generator=generator).bfloat16()
        for parameter, optimizer in pairs:
            parameter.grad = gradient.to(parameter.dtype)
            optimizer.step()


def exact(parameter, optimizer):
    return compact_adamw._joined(parameter.detach(), optimizer.state[parameter]["rest"])


@pytest.mark.parametrize("at_once", [7, 2**20])
def test_the_weight_and_its_rest_follow_fp32(at_once, monkeypatch):
    monkeypatch.setitem(compact_adamw.NUMBERS_AT_ONCE, "cpu", at_once)
    compact, plain = optimizers(12, 9)
    take_steps(200, compact, plain)
    moved = (plain[0].detach() - optimizers(12, 9)[1][0].detach()).abs().mean()
    error = (exact(*compact) - plain[0].detach()).abs().mean()
    assert error < 0.01 * moved
    torch.testing.assert_close(compact[0].detach(), exact(*compact).bfloat16())


def test_a_number_is_split_and_joined_bit_for_bit():
    bits = torch.randint(-(2**31), 2**31, (2**16 + 3,), generator=torch.Generator().manual_seed(0)).int()
    bits[:6] = torch.tensor([0, 2**15, 2**15 - 1, 2**15 + 1, 3 * 2**15, -1])  # ties, and their neighbours
    number = bits.view(torch.float32).nan_to_num(1.0, 1.0, 1.0)
    first, rest = torch.empty_like(number, dtype=torch.bfloat16), torch.empty_like(number, dtype=torch.bfloat16)
    compact_adamw._split(number.clone(), first, rest)
    assert torch.equal(compact_adamw._joined(first, rest).view(torch.int32), number.view(torch.int32))
    assert ((first.float() - number).abs() <= (number.bfloat16().float() - number).abs()).all()


def test_steps_that_bf16_alone_would_lose_add_up():
    (weight, optimizer), _ = optimizers(64)
    start = weight.detach().clone()
    for _ in range(100):
        weight.grad = torch.full_like(weight, 1e-3)
        optimizer.param_groups[0]["lr"] = 1e-5  # a hundredth of the distance between bf16 numbers near 1
        optimizer.step()
    decayed = start.float() * (1 - 1e-5 * 0.1) ** 100
    torch.testing.assert_close(exact(weight, optimizer), decayed - 100 * 1e-5, rtol=0, atol=0.03 * 100 * 1e-5)


def test_its_state_returns_bit_for_bit():
    (weight, optimizer), _ = optimizers(5, 6)
    take_steps(3, (weight, optimizer))
    again, restored = optimizers(5, 6)[0]
    again.data.copy_(weight.data)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for pair in ((weight, optimizer), (again, restored)):
        take_steps(3, pair, seed=2)
    assert torch.equal(weight, again)
    assert all(torch.equal(value, restored.state[again][key]) for key, value in optimizer.state[weight].items())


@pytest.mark.parametrize("name", ["compact", "muon"])
def test_what_is_loaded_comes_to_the_device_of_the_parameters(name):
    """As after a restart on a GPU, for which "meta" stands in, from a checkpoint that was read on the CPU."""

    def optimizer(device):
        dtype = torch.bfloat16 if name == "compact" else torch.float32
        weight, rest = (nn.Parameter(torch.zeros(4, 4, dtype=dtype, device=device)) for _ in range(2))
        if name == "compact":
            return adamw(group(weight, rest), **SETTINGS)
        others = [{**group(rest)[0], "matrices": False}]
        return Muon([*group(weight), *others], matrix_lr_scale=1.0, momentum=0.9, steps=3, **SETTINGS)

    saved, loading = optimizer("cpu"), optimizer("meta")
    for parameter in (p for g in saved.param_groups for p in g["params"]):
        parameter.grad = torch.ones_like(parameter)
    saved.step()
    loading.load_state_dict(saved.state_dict())
    values = [value for state in loading.state.values() for value in state.values()]
    assert values and {value.device.type for value in values} == {"meta"}


def test_bytes_of_a_number():
    (weight, optimizer), _ = optimizers(32, 32)
    take_steps(1, (weight, optimizer))
    held = sum(tensor.nbytes for tensor in (weight, weight.grad, *optimizer.state[weight].values()) if tensor.ndim)
    assert held == 12 * weight.numel()


def test_muon_wants_fp32():
    weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.bfloat16))
    with pytest.raises(ValueError, match="Muon takes weights in fp32; set model.weight_dtype=fp32"):
        Muon(
            group(weight),
            lr=1e-3,
            matrix_lr_scale=1.0,
            momentum=0.9,
            steps=3,
            betas=(0.9, 0.99),
            eps=1e-8,
            weight_decay=0,
        )


def test_vectors_stay_in_fp32():
    matrix, vector = nn.Parameter(torch.zeros(2, 2, dtype=torch.bfloat16)), nn.Parameter(torch.zeros(2))
    optimizer = adamw(group(matrix, vector), **SETTINGS)
    assert isinstance(optimizer, CompactAdamW)
    for parameter in (matrix, vector):
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert {value.dtype for value in optimizer.state[vector].values()} == {torch.float32}


def test_a_killed_training_goes_on_with_the_same_bits(tmp_path):
    make_latents(tmp_path, count=24)
    train_here(tmp_path, "exp_name=whole", *BF16)
    kill = ["trainer.save_interval=4ba", "+callbacks.kill._target_=killer.KillAt", "+callbacks.kill.step=10"]
    assert train_command(tmp_path, "exp_name=parts", *BF16, *kill).returncode < 0
    train_here(tmp_path, "exp_name=parts", *BF16, "trainer.save_interval=4ba")
    whole, parts = (tmp_path / "runs" / name for name in ("whole", "parts"))
    assert losses(whole) == losses(parts)
    for file in ("model.safetensors", "ema.safetensors"):
        first, second = (load_file(run / file) for run in (whole, parts))
        assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    raw, average = (load_file(whole / f"{name}.safetensors") for name in ("model", "ema"))
    assert {raw[name].dtype for name in raw if raw[name].ndim > 1} == {torch.bfloat16}
    assert {tensor.dtype for tensor in average.values()} == {torch.float32}
