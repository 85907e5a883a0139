"""Exponential moving average of the weights, which evaluation, sampling and later stages use.

Own code rather than Composer's algorithm: that one swaps the average into every checkpoint, and finds the weights by
names that change with the number of ranks, so a run resumed on another number goes on without averaging.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from composer import Algorithm, Event, Logger, State, Time, TimeUnit
from composer.utils import dist
from torch import Tensor, nn

from micro_diffusion.bounds import OpenFraction
from micro_diffusion.training.distributed.sharding import local, sharded, trainable_weights, whole
from micro_diffusion.training.trainable import trained_model


class EMA(Algorithm):
    """average ← smoothing·average + (1 − smoothing)·weights after every step, in fp32.

    Args:
        smoothing: weight of the old average, inside (0, 1); or None, with a width.
        width: standard deviation of the moments that are averaged over, as a share of the training so far: an average
            whose horizon grows with the training, which serves any length (see `growing_smoothing`). Below 0.289.
        start: when averaging begins, as a Composer time such as `1000ba`; the average then starts from the weights.

    Raises:
        ValueError: for a start that training does not reach, and unless there is either a smoothing or a width.
    """

    def __init__(
        self, *, smoothing: OpenFraction | None = None, width: OpenFraction | None = None, start: str | Time
    ) -> None:
        if (smoothing is None) == (width is None):
            raise ValueError(f"algorithms.ema has {smoothing=} and {width=}; set one of them, and the other to null")
        self.smoothing, self.width = smoothing, width
        self.exponent = None if width is None else exponent_of(width)
        self.start = Time.from_input(start)
        self.average: dict[str, Tensor] = {}
        self._raw: dict[str, Tensor] = {}
        self._loaded = False

    def __repr__(self) -> str:
        how = f"smoothing={self.smoothing}" if self.width is None else f"width={self.width}"
        return f"EMA({how}, start='{self.start.to_timestring()}')"

    def match(self, event: Event, state: State) -> bool:
        """Runs around steps and evaluations."""
        return event in (Event.FIT_START, Event.BATCH_END, Event.EVAL_START, Event.EVAL_END)

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        """Update after a step; show the average to evaluations."""
        network = trained_model(state.model).network
        if event == Event.FIT_START:
            self._check_start(state)
        elif event == Event.BATCH_END and self._has_started(state):
            self.update(network, step=state.timestamp.batch.value)
        elif event == Event.EVAL_START:
            self._swap_in(network)
        elif event == Event.EVAL_END:
            self._swap_out(network)

    def _has_started(self, state: State) -> bool:
        end = state.max_duration
        if self.start.unit == TimeUnit.DURATION and end is not None:
            return state.timestamp.get(end.unit).value >= self.start.value * end.value
        return state.timestamp.get(self.start.unit) >= self.start

    @torch.no_grad()
    def update(self, network: nn.Module, *, step: int = 0) -> None:
        """One step of the average, which begins as a copy of the weights. step: of the training, counted from 1."""
        weights = trainable_weights(network)
        if not self.average:
            self.average = {name: weight.to(torch.float32, copy=True) for name, weight in weights.items()}
            return
        self._place(weights)
        smoothing = self.smoothing if self.exponent is None else growing_smoothing(step, self.exponent)
        assert smoothing is not None
        pairs = [(local(self.average[name]), local(weight)) for name, weight in weights.items()]
        if exact := [pair for pair in pairs if pair[1].dtype == torch.float32]:
            averages, exactly = zip(*exact, strict=True)
            torch._foreach_lerp_(averages, exactly, 1 - smoothing)
        for average, weight in pairs:
            if weight.dtype != torch.float32:  # one by one: copies of all in fp32 would take as much as the average
                average.lerp_(weight.float(), 1 - smoothing)

    @contextmanager
    def averaged(self, network: nn.Module) -> Iterator[bool]:
        """The network with its average for a while; yields whether there is one."""
        self._swap_in(network)
        try:
            yield bool(self.average)
        finally:
            self._swap_out(network)

    def state_dict(self) -> dict[str, Any]:
        """The average goes into checkpoints beside the raw weights, in one piece, which the first rank writes."""
        return {**super().state_dict(), "average": self.whole()}

    def whole(self) -> dict[str, Tensor]:
        """The average in one piece on the CPU; nothing on other ranks than the first."""
        average = {name: whole(tensor) for name, tensor in self.average.items()}
        return {name: tensor.cpu() for name, tensor in average.items()} if dist.get_global_rank() == 0 else {}

    def load_state_dict(self, state: dict[str, Any], strict: bool = False) -> None:
        """Takes the average of a checkpoint."""
        self.average, self._loaded = state["average"], True

    def _check_start(self, state: State) -> None:
        end, start, epoch = state.max_duration, self.start, state.dataloader_len
        if end is None:
            return
        if epoch is not None and {start.unit, end.unit} == {TimeUnit.BATCH, TimeUnit.EPOCH}:
            reached = _in_batches(start, epoch) < _in_batches(end, epoch)
        elif start.unit == TimeUnit.DURATION:
            reached = start.value < 1
        else:
            reached = start.unit != end.unit or start < end
        if not reached:
            raise ValueError(
                f"algorithms.ema.start is {start.to_timestring()}, but training ends after {end.to_timestring()}; "
                "start earlier, or leave EMA out with ~algorithms.ema"
            )

    @torch.no_grad()
    def _swap_in(self, network: nn.Module) -> None:
        """Exchange weights and average tensor by tensor, which takes room for one of them, not for all."""
        if not self.average or self._raw:
            return
        weights = trainable_weights(network)
        self._place(weights)
        for name, weight in weights.items():
            average = self.average[name]
            if weight.dtype == average.dtype:
                _exchange(weight, average)
                self.average[name], self._raw[name] = weight, average
            else:  # a weight in bf16 has no room for its average
                self._raw[name] = weight.clone()
                weight.copy_(average)

    @torch.no_grad()
    def _swap_out(self, network: nn.Module) -> None:
        weights = trainable_weights(network) if self._raw else {}
        for name, raw in self._raw.items():
            if raw.dtype == self.average[name].dtype:
                _exchange(weights[name], raw)
                self.average[name] = raw
            else:
                weights[name].copy_(raw)
        self._raw = {}

    def _place(self, weights: dict[str, Tensor]) -> None:
        """A checkpoint's average comes in one piece on the CPU."""
        missing = weights.keys() ^ self.average.keys()
        if missing:
            raise ValueError(f"the average of the checkpoint is of another network; they differ in {sorted(missing)}")
        if self._loaded:
            self.average = {name: sharded(self.average[name], like=weight) for name, weight in weights.items()}
            self._loaded = False


def growing_smoothing(step: int, exponent: float) -> float:
    """(1 − 1/t)^(γ + 1): weight of the old average after t steps, so that moment τ counts in proportion to τ^γ.

    Karras et al. 2024, "Analyzing and improving the training dynamics of diffusion models", arXiv 2312.02696, eq. 2.
    """
    return (1 - 1 / step) ** (exponent + 1)


def exponent_of(width: float) -> float:
    """γ of the average whose moments, as shares of the training, have a standard deviation (eq. 3 there).

    width² = (γ + 1) / ((γ + 2)²·(γ + 3)), which falls from 1/12 at γ = 0.

    Raises:
        ValueError: for a width that no γ above 0 has.
    """
    if not 0 < width < 12**-0.5:
        raise ValueError(f"algorithms.ema.width is {width}; set it above 0 and below 0.289, such as 0.1")
    low, high = 0.0, 1 / width**2
    for _ in range(100):
        middle = (low + high) / 2
        found = (middle + 1) / ((middle + 2) ** 2 * (middle + 3))
        low, high = (middle, high) if found > width**2 else (low, middle)
    return low


def find_average(state: State) -> EMA | None:
    """The EMA of a training, if it has one."""
    return next((algorithm for algorithm in state.algorithms if isinstance(algorithm, EMA)), None)


def _exchange(first: Tensor, second: Tensor) -> None:
    first, second = local(first), local(second)
    kept = first.clone()
    first.copy_(second)
    second.copy_(kept)


def _in_batches(time: Time, epoch: Time) -> int:
    return time.value * (epoch.value if time.unit == TimeUnit.EPOCH else 1)
