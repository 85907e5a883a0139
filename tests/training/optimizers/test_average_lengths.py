"""Averages of any length from those that were kept, against averages computed directly."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from composer import ComposerModel, Event, Time, Timestamp
from torch import nn

from micro_diffusion.training.optimizers.average_lengths import Profile, averaged, overlap, shares, snapshots
from micro_diffusion.training.optimizers.ema import exponent_of
from micro_diffusion.training.optimizers.kept_averages import KeptAverages

STEPS = 200
WIDTHS = (0.05, 0.1)


class Model(ComposerModel):
    def __init__(self):
        super().__init__()
        self.network = nn.Linear(8, 2)
        self.network.bias.requires_grad_(False)

    def forward(self, batch):
        return batch

    def loss(self, outputs, batch):
        return outputs


def path_of_weights() -> torch.Tensor:
    """(STEPS, 2, 8): a random walk, as weights take it."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(STEPS, 2, 8, generator=generator, dtype=torch.float64).cumsum(0) / STEPS**0.5


def direct(weights: torch.Tensor, width: float) -> torch.Tensor:
    """The mean of the first t weights, each by ∫ of τ^γ over its step."""
    ends = torch.arange(len(weights) + 1, dtype=torch.float64) / len(weights)
    share = (ends ** (exponent_of(width) + 1)).diff()
    assert share.sum() == pytest.approx(1)
    return torch.einsum("t,tij->ij", share, weights)


def train(algorithm: KeptAverages, weights: torch.Tensor, first: int = 1) -> None:
    model = Model()
    for step, weight in enumerate(weights, start=first):
        with torch.no_grad():
            model.network.weight.copy_(weight)
        state = SimpleNamespace(
            model=model,
            timestamp=Timestamp(batch=step),
            previous_timestamp=Timestamp(batch=step - 1),
            max_duration=Time.from_timestring(f"{STEPS}ba"),
            dataloader_len=Time.from_batch(STEPS),
            get_elapsed_duration=lambda step=step: Time.from_timestring(f"{step / STEPS}dur"),
        )
        for event in (Event.BATCH_END, Event.BATCH_CHECKPOINT):
            assert algorithm.match(event, state)
            algorithm.apply(event, state, None)


def kept(folder: Path, interval: str = "10ba") -> KeptAverages:
    return KeptAverages(widths=WIDTHS, interval=interval, folder=str(folder), dtype="fp32")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(kept(folder), path_of_weights())
    return folder


def test_overlaps_are_the_integrals_of_products():
    moments = torch.linspace(0, 1, 200_001, dtype=torch.float64)

    def density(profile: Profile) -> torch.Tensor:
        values = (profile.exponent + 1) * moments**profile.exponent / profile.step ** (profile.exponent + 1)
        return values * (moments <= profile.step)

    for first, second in ((Profile(1.0, 6.9), Profile(1.0, 17.0)), (Profile(0.4, 17.0), Profile(0.9, 3.0))):
        expected = torch.trapezoid(density(first) * density(second), moments).item()
        assert overlap(first, second) == overlap(second, first) == pytest.approx(expected, rel=1e-3)


def test_shares_sum_to_one_and_find_what_was_kept():
    profiles = [Profile(step, exponent_of(width)) for step in (0.5, 0.75, 1.0) for width in WIDTHS]
    found, apart = shares(profiles, profiles[3])
    torch.testing.assert_close(found, torch.eye(6, dtype=torch.float64)[3], atol=1e-5, rtol=0)
    assert apart < 1e-5
    other, further = shares(profiles, Profile(1.0, exponent_of(0.2)))
    assert other.sum().item() == pytest.approx(1) and further > 0.01


def test_what_is_kept_is_the_average_of_its_length(run: Path):
    found = snapshots(run)
    assert len(found) == 2 * STEPS // 10 and {snapshot.width for snapshot in found} == set(WIDTHS)
    for width in WIDTHS:
        for step in (50, STEPS):
            made, apart = averaged(found, width, step)
            assert set(made) == {"weight"} and apart < 1e-4
            expected = direct(path_of_weights()[:step], width).float()
            torch.testing.assert_close(made["weight"], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("width", [0.06, 0.08, 0.15, 0.2])
def test_other_lengths_come_near_to_the_average_computed_directly(run: Path, width: float):
    made, apart = averaged(snapshots(run), width)
    weights = path_of_weights()
    expected = direct(weights, width).float()
    moved = (weights[-1] - expected).norm()
    assert apart < 0.05
    assert (made["weight"] - expected).norm() < 0.02 * moved


def test_fewer_snapshots_are_further_apart(run: Path):
    everything = snapshots(run)
    some = [snapshot for snapshot in everything if snapshot.step % 50 == 0]
    assert averaged(some, 0.15)[1] > 2 * averaged(everything, 0.15)[1]


def test_a_resumed_run_keeps_the_same(run: Path, tmp_path: Path):
    weights = path_of_weights().float()
    first, second = kept(tmp_path), kept(tmp_path)
    train(first, weights[:60])
    second.load_state_dict(first.state_dict())
    train(second, weights[60:], first=61)
    for ours, theirs in zip(snapshots(tmp_path), snapshots(run), strict=True):
        a, b = averaged([ours], ours.width)[0], averaged([theirs], theirs.width)[0]
        torch.testing.assert_close(a, b)
    other = KeptAverages(widths=[0.1], interval="10ba", folder=str(tmp_path), dtype="fp16")
    with pytest.raises(ValueError, match=r"lengths 0\.05, 0\.1; set algorithms\.ema_lengths\.widths"):
        other.load_state_dict(first.state_dict())


def test_snapshots_may_be_half_as_large_and_the_last_step_has_one(tmp_path: Path):
    half = KeptAverages(widths=WIDTHS, interval="0.4dur", folder=str(tmp_path), dtype="fp16")
    train(half, path_of_weights())
    found = snapshots(tmp_path)
    assert [snapshot.step for snapshot in found] == [80, 80, 160, 160, 200, 200]
    made = averaged(found, 0.05)[0]["weight"]
    assert made.dtype == torch.float32
    torch.testing.assert_close(made, direct(path_of_weights(), 0.05).float(), atol=2e-3, rtol=2e-3)


def test_a_run_without_snapshots_says_how_to_keep_some(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="train with algorithms=ema_lengths"):
        snapshots(tmp_path)
