"""Our training step and sampling run against those of the public MicroDiT code, on the same work and weights.

Each code works in a process of its own, with the settings of memory that its commands make, which for the public ones
are none. They take turns, and the median of the ratios counts.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import Tensor, nn

from micro_diffusion.backbone.dit import SparseDiT
from micro_diffusion.machine.precision import Precision
from micro_diffusion.machine.tensor_memory import HUGE_PAGES, keep_freed_memory
from micro_diffusion.performance.generation import Generation
from micro_diffusion.performance.measurement import Measurement
from micro_diffusion.performance.reference import (
    ReferenceDrawing,
    ReferenceTrainingStep,
    check_public_code,
    public_model,
)
from micro_diffusion.performance.report import Row
from micro_diffusion.performance.timing import Clock, forget_peak_memory, now, peak_memory
from micro_diffusion.performance.training_step import TrainingStep
from micro_diffusion.released_weights import import_microdit
from micro_diffusion.training.config_checks.resolvers import register_resolvers

Side = Literal["ours", "public"]
SIDES: tuple[Side, Side] = ("ours", "public")


class Ratio(NamedTuple):
    """Medians of seconds, and the median of public over ours with the lowest and the highest."""

    ours: float
    public: float
    ratio: float
    lowest: float
    highest: float

    def row(self, unit: str, images: int) -> Row:
        """Seconds of both, each of so many images for a `unit`, and how many times faster ours is."""
        return {
            unit: self.ours / images,
            f"reference_{unit}": self.public / images,
            "times_faster": self.ratio,
            "times_faster_lowest": self.lowest,
            "times_faster_highest": self.highest,
        }


class Comparison:
    """What both codes are to do.

    Args:
        folder: a clone of the public code.
        config: a training configuration.
        backbone: its option of configs/backbone.
        batch_size: images of a step or a run.
        device: where both work.
        precision: of both networks' matrix products.
        compile: whether to compile our network, as one graph.

    Raises:
        FileNotFoundError, ValueError: see `check_public_code`.
    """

    def __init__(
        self,
        *,
        folder: Path,
        config: DictConfig,
        backbone: str,
        batch_size: int,
        device: torch.device,
        precision: Precision,
        compile: bool,
    ) -> None:
        check_public_code(folder, backbone)
        self.folder, self.config, self.backbone = folder, config, backbone
        self.compile = compile
        self.work: dict[str, Any] = {
            "config": config,
            "batch_size": batch_size,
            "device": device,
            "precision": precision,
        }

    def training_step(self, side: Side) -> Callable[[], Tensor]:
        """A step with the public code's initial weights."""
        model = public_model(self.folder, self.config, self.backbone)
        if side == "public":
            return ReferenceTrainingStep(model=model, **self.work)
        step = TrainingStep(**self.work, compile=self.compile)
        take_weights(step.model.network, model.dit)
        return step

    def generation(self, side: Side, *, guidance_scale: float, public_steps: int) -> Callable[[], Tensor]:
        """A sampling run with the public code's initial weights, from the same noise and captions."""
        model = public_model(self.folder, self.config, self.backbone)
        if side == "public":
            return ReferenceDrawing(model=model, steps=public_steps, guidance_scale=guidance_scale, **self.work)
        generation = Generation(**self.work, guidance_scale=guidance_scale, compile=self.compile)
        take_weights(generation.network, model.dit)
        return generation


def compare_training(comparison: Comparison, measurement: Measurement) -> Row:
    """Training steps, ours and the public code's in turn, and the memory of each."""
    with working(comparison.training_step, measurement) as (ours, public):
        ratio = alternate(ours.seconds, public.seconds, repeats=measurement.repeats)
        peak, public_peak = ours.peak_memory(), public.peak_memory()
    return ratio.row("seconds_per_step", 1) | {
        "peak_memory_bytes": peak,
        "reference_peak_memory_bytes": public_peak,
        "peak_memory_ratio": peak / public_peak,
    }


def compare_generation(
    comparison: Comparison, measurement: Measurement, *, guidance_scale: float, public_steps: int
) -> Row:
    """Sampling runs, ours and the public code's in turn, and the difference of what they drew."""
    generate = partial(comparison.generation, guidance_scale=guidance_scale, public_steps=public_steps)
    with working(generate, measurement) as (ours, public):
        ratio = alternate(ours.seconds, public.seconds, repeats=measurement.repeats)
        made, expected = ours.result(), public.result()
    difference = (made - expected).abs().max() / expected.abs().max()
    return ratio.row("seconds_per_image", measurement.batch_size) | {"largest_difference": difference.item()}


def take_weights(network: nn.Module, public: Any) -> None:
    """Give our network the public one's weights."""
    assert isinstance(network, SparseDiT)
    network.load_state_dict(import_microdit(public.state_dict(), network))


def alternate(ours: Callable[[], float], public: Callable[[], float], *, repeats: int) -> Ratio:
    """Seconds of both in turn, after one repetition of each that does not count."""
    seconds = [(ours(), public()) for _ in range(1 + repeats)][1:]
    ratios = [theirs / own for own, theirs in seconds]
    own, theirs = (statistics.median(side) for side in zip(*seconds, strict=True))
    return Ratio(own, theirs, statistics.median(ratios), min(ratios), max(ratios))


class Worker:
    """One code at its work, in a process of its own.

    Args:
        pool: of that one process.
        measurement: where it works, and by which clock.
    """

    def __init__(self, pool: ProcessPoolExecutor, measurement: Measurement) -> None:
        self.pool, self.device = pool, measurement.device
        self.clock: Clock = measurement.clock

    def begin(self, make: Callable[[Side], Callable[[], Tensor]], side: Side) -> None:
        """Make ready what `seconds` repeats; the peak of memory is counted from then on."""
        usual = os.environ[HUGE_PAGES]
        os.environ[HUGE_PAGES] = usual if side == "ours" else "0"  # the new process inherits it
        try:
            self.pool.submit(_begin, make, side, self.device, torch.get_num_threads()).result()
        finally:
            os.environ[HUGE_PAGES] = usual

    def seconds(self) -> float:
        """Of the work done once more."""
        return self.pool.submit(_timed, self.device, self.clock).result()

    def result(self) -> Tensor:
        """What the work gave the last time, in fp32."""
        return torch.from_numpy(self.pool.submit(_last).result())

    def peak_memory(self) -> int:
        """Bytes that the process held at most."""
        return self.pool.submit(peak_memory, self.device).result()


@contextmanager
def working(make: Callable[[Side], Callable[[], Tensor]], measurement: Measurement) -> Iterator[tuple[Worker, Worker]]:
    """Our code and the public one, each ready for its work."""
    context = get_context("spawn")
    with ProcessPoolExecutor(1, context) as ours, ProcessPoolExecutor(1, context) as public:
        workers = Worker(ours, measurement), Worker(public, measurement)
        for worker, side in zip(workers, SIDES, strict=True):
            worker.begin(make, side)
        yield workers


_done: dict[str, Any] = {}
"""Of a worker's process: its work, and what that gave the last time."""


def _begin(make: Callable[[Side], Callable[[], Tensor]], side: Side, device: torch.device, threads: int) -> None:
    register_resolvers()
    torch.set_num_threads(threads)
    torch.manual_seed(0)  # the public network's weights
    if side == "ours":
        keep_freed_memory(device.type)  # as our commands do
    _done["work"] = make(side)
    forget_peak_memory(device)


def _timed(device: torch.device, clock: Clock) -> float:
    start = now(device, clock)
    _done["result"] = _done["work"]()
    return now(device, clock) - start


def _last() -> NDArray[np.float32]:
    return _done["result"].float().cpu().numpy()
