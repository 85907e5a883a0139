"""The clock of the training steps, and how evenly experts share the tokens."""

import time
from types import SimpleNamespace

import pytest
import torch

from micro_diffusion.backbone.experts import ExpertChoice
from micro_diffusion.training.callbacks.router_load import RouterLoad, load
from micro_diffusion.training.callbacks.training_clock import TrainingClock
from tests.training.test_latent_diffusion import make_model


class Logged(dict):
    def log_metrics(self, metrics):
        self.update({name: float(value) for name, value in metrics.items()})


def test_the_clock_leaves_out_what_is_no_step():
    clock, logged = TrainingClock(), Logged()
    for _ in range(2):
        clock.before_dataloader(None, None)
        time.sleep(0.02)
        clock.batch_end(None, None)
        time.sleep(0.1)
    clock.eval_start(None, logged)
    assert 0.04 <= logged["clock/wall"] < 0.12
    assert 0 < logged["clock/processor"] < 0.03  # a sleep takes the wall's time alone
    resumed = TrainingClock()
    resumed.load_state_dict(clock.state_dict())
    assert resumed.wall == clock.wall and resumed.processor == clock.processor


def test_the_load_counts_the_experts_of_each_token():
    torch.manual_seed(0)
    experts = ExpertChoice(8, 8, experts=4, capacity=2.0)
    tokens = torch.randn(3, 6, 8)
    counted = torch.zeros(3, 6, dtype=torch.long)
    for sample in range(3):
        for expert in experts.gate(tokens[sample]).softmax(dim=-1).T:
            counted[sample, expert.topk(3).indices] += 1
    assert torch.equal(load(experts, tokens), counted)
    assert counted.sum() == 3 * 4 * 3


def test_an_evaluation_logs_the_load_of_each_router():
    experts = ExpertChoice(8, 8, experts=2, capacity=1.0)
    network = torch.nn.ModuleDict({"a": experts})
    state = SimpleNamespace(model=make_model())
    state.model.network = network
    with torch.no_grad():  # both experts want what points along one direction
        experts.gate.weight.copy_(torch.ones(2, 8))
    callback, logged, tokens = RouterLoad(), Logged(), torch.randn(5, 4, 8)
    callback.eval_start(state, logged)
    network["a"](tokens)
    callback.eval_end(state, logged)
    network["a"](torch.randn(5, 4, 8))  # not watched any more
    assert callback._seen == {}
    counted = load(experts, tokens)
    assert logged["router/a/untaken"] == pytest.approx((counted == 0).float().mean().item())
    assert logged["router/a/most"] == 2.0
