import copy
from itertools import accumulate
from types import SimpleNamespace

import pytest
import torch
from composer import ComposerModel, Event, Time, Timestamp
from torch import nn
from torch.profiler import ProfilerActivity, profile

from micro_diffusion.training.optimizers.ema import EMA, exponent_of


class Model(ComposerModel):
    def __init__(self):
        super().__init__()
        self.network = nn.Linear(2, 1)
        self.network.bias.requires_grad_(False)

    def forward(self, batch):
        return batch

    def loss(self, outputs, batch):
        return outputs


def state_at(model, batch, duration="10ba"):
    """Epochs have four batches."""
    end = Time.from_timestring(duration)
    return SimpleNamespace(
        model=model, timestamp=Timestamp(batch=batch), max_duration=end, dataloader_len=Time.from_batch(4)
    )


def set_weight(model, value):
    with torch.no_grad():
        model.network.weight.fill_(value)


def fit(ema, model, values, first=1):
    for batch, value in enumerate(values, start=first):
        set_weight(model, value)
        ema.apply(Event.BATCH_END, state_at(model, batch), None)


def test_follows_the_formula_from_its_start_on():
    ema, model = EMA(smoothing=0.9, start="2ba"), Model()
    fit(ema, model, [5.0, 1.0, 2.0, 4.0])
    expected = 0.9 * (0.9 * 1.0 + 0.1 * 2.0) + 0.1 * 4.0
    torch.testing.assert_close(ema.average["weight"], torch.full((1, 2), expected))
    assert "bias" not in ema.average
    assert torch.equal(model.network.weight.detach(), torch.full((1, 2), 4.0))


def test_may_start_after_a_share_of_the_training():
    ema, model = EMA(smoothing=0.9, start="0.25dur"), Model()
    fit(ema, model, [5.0, 1.0, 2.0])  # of ten
    torch.testing.assert_close(ema.average["weight"], torch.full((1, 2), 2.0))


def test_evaluation_sees_the_average_and_training_gets_its_weights_back():
    ema, model = EMA(smoothing=0.5, start="0ba"), Model()
    fit(ema, model, [1.0, 3.0])
    ema.apply(Event.EVAL_START, state_at(model, 2), None)
    assert torch.equal(model.network.weight.detach(), torch.full((1, 2), 2.0))
    ema.apply(Event.EVAL_END, state_at(model, 2), None)
    assert torch.equal(model.network.weight.detach(), torch.full((1, 2), 3.0))
    with ema.averaged(model.network) as there_is_one:
        assert there_is_one and torch.equal(model.network.weight.detach(), torch.full((1, 2), 2.0))
    assert torch.equal(model.network.weight.detach(), torch.full((1, 2), 3.0))


def test_before_its_start_evaluation_sees_the_weights():
    ema, model = EMA(smoothing=0.5, start="5ba"), Model()
    fit(ema, model, [1.0])
    with ema.averaged(model.network) as there_is_one:
        assert not there_is_one and torch.equal(model.network.weight.detach(), torch.full((1, 2), 1.0))


@pytest.mark.parametrize(("dtype", "extra"), [(torch.float32, 1), (torch.bfloat16, 6)])
def test_showing_the_average_takes_room_for_one_tensor(dtype, extra):
    """In bf16 for a copy of all weights, for they have no room for an average in fp32."""
    network = nn.Sequential(*[nn.Linear(64, 64, bias=False, dtype=dtype) for _ in range(6)])
    ema = EMA(smoothing=0.3, start="0ba")
    ema.update(network)
    network.load_state_dict({name: torch.randn_like(weight) for name, weight in network.state_dict().items()})
    ema.update(network)
    weights, average = copy.deepcopy(network.state_dict()), copy.deepcopy(ema.average)

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled, ema.averaged(network):
        pass
    changes = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes.sort(key=lambda event: event.start_ns())
    assert max(accumulate(event.nbytes() for event in changes)) == extra * 64 * 64 * dtype.itemsize

    with ema.averaged(network):
        shown, kept = copy.deepcopy(network.state_dict()), ema.whole()
        torch.testing.assert_close(kept, average, rtol=0, atol=0)  # in fp32, for the finished run's files
        torch.testing.assert_close(shown, {name: mean.to(dtype) for name, mean in average.items()}, rtol=0, atol=0)
    torch.testing.assert_close(network.state_dict(), weights, rtol=0, atol=0)
    torch.testing.assert_close(ema.average, average, rtol=0, atol=0)


def test_goes_on_from_a_checkpoint():
    whole, interrupted, model = EMA(smoothing=0.9, start="0ba"), EMA(smoothing=0.9, start="0ba"), Model()
    fit(whole, model, [1.0, 2.0, 3.0])
    fit(interrupted, model, [1.0, 2.0])
    resumed = EMA(smoothing=0.9, start="0ba")
    resumed.load_state_dict(interrupted.state_dict())
    fit(resumed, model, [3.0], first=3)
    assert torch.equal(resumed.average["weight"], whole.average["weight"])


def test_the_average_of_another_network_is_refused():
    ema, model = EMA(smoothing=0.9, start="0ba"), Model()
    ema.load_state_dict({"average": {"other": torch.zeros(1)}})
    with pytest.raises(ValueError, match=r"another network; they differ in \['other', 'weight'\]"):
        fit(ema, model, [1.0])


@pytest.mark.parametrize(("start", "end"), [("10ba", "10ba"), ("1.0dur", "10ba"), ("8ba", "2ep"), ("3ep", "12ba")])
def test_a_start_after_the_end_is_refused(start, end):
    with pytest.raises(ValueError, match=f"start is {start}, but training ends after {end}; start earlier"):
        EMA(smoothing=0.9, start=start).apply(Event.FIT_START, state_at(Model(), 0, end), None)
    EMA(smoothing=0.9, start="1ep").apply(Event.FIT_START, state_at(Model(), 0, "5ba"), None)


@pytest.mark.parametrize(("width", "exponent"), [(0.05, 16.97), (0.10, 6.94)])
def test_widths_have_the_published_exponents(width, exponent):
    """Karras et al. 2024, section 3.1."""
    assert exponent_of(width) == pytest.approx(exponent, abs=0.005)


def test_a_growing_average_is_that_of_a_power_of_time():
    """Each weight counts as the steps up to its own, to the power of γ + 1, less those before it."""
    ema, model = EMA(width=0.1, start="0ba"), Model()
    values = [float(value) for value in torch.rand(12, generator=torch.Generator().manual_seed(0))]
    fit(ema, model, values)
    power = exponent_of(0.1) + 1
    shares = [((t / 12) ** power - ((t - 1) / 12) ** power) for t in range(1, 13)]
    expected = sum(share * value for share, value in zip(shares, values, strict=True))
    torch.testing.assert_close(ema.average["weight"], torch.full((1, 2), expected))
    assert sum(shares) == pytest.approx(1)


def test_an_average_has_a_smoothing_or_a_width():
    for given in ({}, {"smoothing": 0.9, "width": 0.1}):
        with pytest.raises(ValueError, match="set one of them, and the other to null"):
            EMA(start="0ba", **given)
    with pytest.raises(ValueError, match=r"algorithms.ema.width is 0.4; set it above 0 and below 0.289"):
        EMA(start="0ba", width=0.4)
