"""Adapters beside the layers of networks: at first nothing changes, they alone are trained, they can be merged."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from torch import nn

from micro_diffusion.backbone import recomputation
from micro_diffusion.condition import Condition
from micro_diffusion.training.lora import Lora
from tests.export.networks import NETWORKS

LORA: dict[str, Any] = {"rank": 3, "alpha": 6.0, "dropout": 0.0, "targets": ["*attention*"], "trained_whole": []}


@pytest.fixture(params=NETWORKS)
def network(request) -> Any:
    """One of each kind, none of whose weights is zero."""
    torch.manual_seed(0)
    made = instantiate(NETWORKS[request.param], _convert_="all")
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.1)
    return made


def predicted(network: Any) -> torch.Tensor:
    """With gradients, as in training, where some results are made otherwise."""
    draws = torch.Generator().manual_seed(1)
    x = torch.randn(2, network.in_channels, 16, 16, generator=draws)
    tokens = torch.randn(2, 5, network.caption_dim, generator=draws)
    condition = Condition(tokens, torch.tensor([[True] * 5, [True] * 3 + [False] * 2]))
    return network(x, torch.tensor([0.1, -0.4]), condition).value


def adapted(network: nn.Module, *, seed: int | None = None, **changes: Any) -> Lora:
    """The network with adapters, whose second matrices are random with a seed, and zero, as at first, without."""
    lora = Lora(**{**LORA, **changes})
    lora.inject(network)
    if seed is not None:
        torch.manual_seed(seed)
        for key, parameter in network.named_parameters():
            if "lora_B" in key:
                nn.init.normal_(parameter, std=0.1)
    return lora


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert torch.allclose(found, expected, rtol=0, atol=1e-5 * float(expected.detach().abs().max()))


def test_at_first_nothing_changes_and_adapters_alone_are_trained(network):
    before = predicted(network).detach()
    theirs = {id(parameter) for parameter in network.parameters()}
    adapted(network)
    assert torch.equal(predicted(network), before)
    trained = {key: parameter for key, parameter in network.named_parameters() if parameter.requires_grad}
    assert trained and all("lora_" in key for key in trained)
    assert theirs.isdisjoint(map(id, trained.values()))


@pytest.mark.parametrize("kept_below", [0, 2**15])
def test_every_layer_of_a_network_can_be_adapted(network, kept_below, monkeypatch):
    """Also those whose weight the network multiplies itself: none is without effect."""
    monkeypatch.setattr(recomputation, "KEPT_BELOW", kept_below)
    adapted(network, seed=2, targets=["*"])
    predicted(network).square().sum().backward()
    without = [key for key, p in network.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert without == []
    assert [key for key, p in network.named_parameters() if not p.requires_grad and p.grad is not None] == []


def test_merged_weights_compute_the_same(network):
    plain = copy.deepcopy(network)
    lora = adapted(network, seed=2, targets=["*"])
    merged = lora.merged(network, network.state_dict())
    assert not torch.allclose(predicted(network), predicted(plain), rtol=0.01)
    plain.load_state_dict(merged)
    close(predicted(network), predicted(plain))


def test_peft_opens_the_adapter_beside_the_first_weights(network, tmp_path: Path):
    from peft import PeftModel

    plain = copy.deepcopy(network)
    whole = next(
        name for name, module in network.named_modules() if name and isinstance(module, nn.LayerNorm | nn.GroupNorm)
    )
    lora = adapted(network, seed=2, trained_whole=[whole])
    nn.init.normal_(network.get_submodule(whole).weight)
    folder = lora.write(tmp_path, "ema", network.state_dict())
    assert {path.name for path in folder.iterdir()} >= {"adapter_model.safetensors", "adapter_config.json"}
    expected, before = predicted(network), predicted(plain)
    opened = PeftModel.from_pretrained(plain, str(folder)).base_model.model
    assert not torch.allclose(expected, before, rtol=0.01)
    close(predicted(opened), expected)


def test_weights_are_read_into_the_network_without_its_adapters(network):
    state = {key: value + 1 for key, value in network.state_dict().items()}
    names = [name for name, _ in network.named_modules()]
    lora = adapted(network)
    with lora.removed(network):
        assert [name for name, _ in network.named_modules()] == names
        network.load_state_dict(state)
    merged = lora.merged(network, network.state_dict())
    assert all(torch.equal(value, state[key]) for key, value in merged.items())


def test_adapters_of_bf16_weights_are_fp32_and_so_are_the_sums():
    layer: Any = nn.Sequential(nn.Linear(8, 8).bfloat16())
    weight = layer[0].weight.detach().clone()
    lora = adapted(layer, seed=1, targets=["0"])
    assert {p.dtype for p in layer.parameters() if p.requires_grad} == {torch.float32}
    merged = lora.merged(layer, layer.state_dict())["0.weight"]
    product = 2 * layer[0].lora_B["default"].weight @ layer[0].lora_A["default"].weight
    assert torch.equal(merged, weight.float() + product) and merged.dtype == torch.float32


def test_a_layer_whose_weight_is_not_used_as_it_is_gets_none():
    """The sum of a standardised kernel and a product is another than the standardised sum; filters are no matrix."""
    from micro_diffusion.backbone.unet import UNet

    unet = UNet(
        input_size=16, in_channels=4, caption_dim=8, width=8, multipliers=[1], blocks=1, attention=[0], groups=2
    )
    with pytest.raises(
        ValueError, match=r"adapter.targets names \*unit1.convolution, but no layer of UNet is called so"
    ):
        adapted(unet, targets=["*unit1.convolution"])
    grouped = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Linear(4, 4))
    with pytest.raises(
        ValueError, match=r"adapter.targets names 0, but no layer of Sequential is called so; choose of \*$"
    ):
        adapted(grouped, targets=["0"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": ["0", "*to_q"]}, r"names \*to_q, but no layer of Sequential is called so; choose of \*"),
        ({"targets": []}, "adapter.targets is empty; name layers"),
        ({"targets": ["0"], "trained_whole": ["7"]}, r"adapter.trained_whole names 7, but no part of Sequential is"),
        (
            {"targets": ["0"], "trained_whole": ["0"]},
            "trained_whole takes in 0, but adapter.targets 0; take one of them",
        ),
    ],
)
def test_patterns_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        adapted(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Sequential()), **{"targets": ["0"], **changes})


def test_without_peft_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ImportError, match=r"needs the library peft, .* pip install 'micro_diffusion\[finetune\]'"):
        Lora(**LORA)
