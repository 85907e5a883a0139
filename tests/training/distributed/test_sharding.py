"""Sharded networks, on a mesh of one device: the same numbers as without, in clipping, Muon and the average."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from composer import ComposerModel, Event, Time, Timestamp
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from micro_diffusion.autoencoder.kl import KLAutoencoder
from micro_diffusion.training.callbacks.smaller_batches import SmallerMicrobatches
from micro_diffusion.training.distributed import averaged_gradients
from micro_diffusion.training.distributed.parallelism import Sharded
from micro_diffusion.training.distributed.sharding import (
    is_sharded,
    layers,
    local,
    shard_by_layer,
    sharded,
    trainable_weights,
    whole,
    whole_state,
)
from micro_diffusion.training.optimizers.ema import EMA
from micro_diffusion.training.optimizers.gradient_clipping import GradientClipping
from micro_diffusion.training.optimizers.muon import Muon


@pytest.fixture(scope="module", autouse=True)
def process_group():
    """In place of the one of a single test."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.blocks = nn.ModuleList(nn.Linear(4, 4, bias=False) for _ in range(2))

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x).tanh()
        return x


class Model(ComposerModel):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, batch):
        return batch

    def loss(self, outputs, batch):
        return outputs


@pytest.fixture
def networks():
    """A network, and the same one sharded layer by layer."""
    torch.manual_seed(0)
    plain = Network()
    spread, mesh = copy.deepcopy(plain), init_device_mesh("cpu", (1,))
    for block in spread.blocks:
        fully_shard(block, mesh=mesh)
    return plain, fully_shard(spread, mesh=mesh)


def backward(network):
    network(torch.linspace(-1, 1, 15).reshape(5, 3)).square().sum().backward()


def assert_equal(network, expected):
    for name, parameter in expected.named_parameters():
        torch.testing.assert_close(whole(network.get_parameter(name).data), parameter.data, msg=name)


def test_tensors_are_cut_and_joined(networks):
    plain, spread = networks
    tensor, like = torch.arange(16.0).reshape(4, 4), spread.blocks[0].weight
    assert isinstance(sharded(tensor, like=like), DTensor) and not is_sharded(plain) and is_sharded(spread)
    assert torch.equal(whole(sharded(tensor, like=like)), tensor)
    assert local(tensor) is tensor and whole(tensor) is tensor and sharded(tensor, like=plain.first.weight) is tensor
    part = sharded(tensor, like=like)
    local(part).zero_()
    assert not whole(part).any()


def test_the_whole_state_has_plain_keys_and_tensors(networks):
    plain, spread = networks
    state, expected = whole_state(spread), plain.state_dict()
    assert state.keys() == expected.keys() and {type(tensor) for tensor in state.values()} == {torch.Tensor}
    assert all(torch.equal(tensor, expected[key]) for key, tensor in state.items())


def test_clipping_reaches_sharded_gradients(networks):
    for network in networks:
        backward(network)
        state = SimpleNamespace(model=Model(network))
        GradientClipping(clipping_threshold=0.1).apply(Event.AFTER_TRAIN_BATCH, state, None)
        norm = torch.stack([whole(p.grad).norm() for p in network.parameters()]).norm()
        torch.testing.assert_close(norm, torch.tensor(0.1), rtol=1e-4, atol=0)


def test_a_backend_that_sums_is_corrected(networks, monkeypatch):
    plain, spread = networks
    for network in networks:
        backward(network)
    for parameter in spread.parameters():
        local(parameter.grad).mul_(2)
    monkeypatch.setattr(averaged_gradients, "average_of_ones", lambda group, device: 2.0)
    averaged_gradients.AveragedGradients().apply(Event.AFTER_TRAIN_BATCH, SimpleNamespace(model=spread), None)
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(whole(spread.get_parameter(name).grad), parameter.grad)
    monkeypatch.undo()
    group = spread.first.weight.device_mesh.get_group(0)
    assert averaged_gradients.average_of_ones(group, torch.device("cpu")) == 1


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)], ids=["listed first", "listed last"])
def test_gradients_are_those_of_all_ranks_before_they_are_clipped(order):
    clipping = GradientClipping(clipping_threshold=1.0)
    algorithms = [clipping, averaged_gradients.AveragedGradients(), SmallerMicrobatches()]
    found = averaged_gradients.complete_gradients_first(algorithms[order], Event.AFTER_TRAIN_BATCH)
    assert sorted(map(algorithms.index, found)) == [0, 1, 2] and found[-1] is clipping
    assert averaged_gradients.complete_gradients_first(algorithms[order], Event.BATCH_START) == algorithms[order]


def test_gradients_below_the_threshold_are_left_alone(networks):
    plain, _ = networks
    backward(plain)
    before = [p.grad.clone() for p in plain.parameters()]
    state = SimpleNamespace(model=Model(plain))
    GradientClipping(clipping_threshold=1e6).apply(Event.AFTER_TRAIN_BATCH, state, None)
    assert all(torch.equal(p.grad, gradient) for p, gradient in zip(plain.parameters(), before, strict=True))


def test_muon_takes_the_same_step(networks):
    for network in networks:
        matrices, vectors = list(network.blocks.parameters()), list(network.first.parameters())
        optimizer = Muon(
            [
                {"name": "matrices", "parameters": matrices, "lr_scale": 1.0, "decay": True, "matrices": True},
                {"name": "vectors", "parameters": vectors, "lr_scale": 1.0, "decay": False, "matrices": False},
            ],
            lr=0.1,
            matrix_lr_scale=2.0,
            momentum=0.9,
            steps=5,
            betas=(0.9, 0.99),
            eps=1e-8,
            weight_decay=0.1,
        )
        for _ in range(2):
            network.zero_grad()
            backward(network)
            optimizer.step()
    assert_equal(networks[1], networks[0])


def test_the_average_is_sharded_and_its_checkpoint_whole(networks):
    plain, spread = networks
    averages = []
    for network in (plain, spread):
        ema, model = EMA(smoothing=0.5, start="0ba"), Model(network)
        state = SimpleNamespace(model=model, timestamp=Timestamp(batch=1), max_duration=Time.from_timestring("9ba"))
        for factor in (1.0, 3.0):
            for weight in trainable_weights(network).values():
                local(weight).mul_(factor)
            ema.apply(Event.BATCH_END, state, None)
        resumed = EMA(smoothing=0.5, start="0ba")
        resumed.load_state_dict(copy.deepcopy(ema.state_dict()))
        resumed.apply(Event.BATCH_END, state, None)
        averages.append(resumed)
    assert isinstance(averages[1].average["blocks.0.weight"], DTensor)
    with averages[0].averaged(plain), averages[1].averaged(spread):
        assert_equal(spread, plain)
    for name, weight in averages[0].state_dict()["average"].items():
        torch.testing.assert_close(averages[1].state_dict()["average"][name], weight)


def test_an_evaluation_leaves_nothing_gathered_behind_the_average(networks):
    """FSDP2 keeps what belongs to no layer gathered after a forward pass; swapping the average must not miss it."""
    plain, spread = networks
    for network in networks:
        ema, model = EMA(smoothing=0.5, start="0ba"), Model(network)
        state = SimpleNamespace(model=model, timestamp=Timestamp(batch=1), max_duration=Time.from_timestring("9ba"))
        ema.apply(Event.BATCH_END, state, None)
        for weight in trainable_weights(network).values():
            local(weight).mul_(2)
        ema.apply(Event.EVAL_START, state, None)
        with torch.no_grad():
            network(torch.ones(1, 3))
        ema.apply(Event.EVAL_END, state, None)
    torch.testing.assert_close(spread(torch.ones(1, 3)), plain(torch.ones(1, 3)))


def test_a_layer_is_an_entry_of_a_module_list():
    network = Network()
    shard_by_layer(network)
    assert layers(network) == list(network.blocks)
    is_layer = vars(network)["fsdp_wrap_fn"]
    assert is_layer(network.blocks[1]) and not is_layer(network.first)
    autoencoder = KLAutoencoder(width=8)
    shard_by_layer(autoencoder)
    with pytest.raises(ValueError, match="KLAutoencoder has no list of layers to shard; train it with parallelism=ddp"):
        vars(autoencoder)["fsdp_wrap_fn"](autoencoder.encoder)


def test_groups_of_ranks(monkeypatch):
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "1")
    assert Sharded(replicas=1, checkpoints="whole").state_dict_type == "full"
    assert Sharded(replicas=None, checkpoints="sharded").data_parallel_replicate_degree is None
    with pytest.raises(ValueError, match="replicas is 3, but 1 ranks do not divide by that"):
        Sharded(replicas=3, checkpoints="whole")
    with pytest.raises(ValueError, match="checkpoints is half; set it to whole or sharded"):
        Sharded(replicas=1, checkpoints="half")
