"""Our training step and sampling run against those of the public MicroDiT code, on the same work and weights.

Times are taken in turn, ours and theirs, and the median of the ratios counts; memory is that of fresh processes, since
a process cannot forget its peak.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from micro_diffusion.backbone.dit import SparseDiT
from micro_diffusion.batch import TextCondition
from micro_diffusion.performance.drawing import Drawing
from micro_diffusion.performance.measurement import Measurement
from micro_diffusion.performance.reference import ReferenceDrawing, ReferenceTrainingStep, public_model
from micro_diffusion.performance.report import Row
from micro_diffusion.performance.timing import Clock, forget_peak_memory, now, peak_memory
from micro_diffusion.performance.training_step import TrainingStep
from micro_diffusion.precision import Precision
from micro_diffusion.released_weights import import_microdit

Side = Literal["ours", "public"]


class Ratio(NamedTuple):
    """Medians of seconds, and the median of public over ours with the lowest and the highest."""

    ours: float
    public: float
    ratio: float
    lowest: float
    highest: float

    def row(self, unit: str, images: int) -> Row:
        """Seconds of both, each of so many pictures for a `unit`, and how many times faster ours is."""
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
        batch_size: pictures of a step or a run.
        device: where both work.
        precision: of both networks' matrix products.
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
    ) -> None:
        self.folder, self.config, self.backbone = folder, config, backbone
        self.batch_size, self.device = batch_size, device
        self.precision: Precision = precision

    def training_step(self, side: Side) -> Callable[[], Tensor]:
        """A step with the public code's initial weights."""
        model = public_model(self.folder, self.config, self.backbone)
        common = {
            "config": self.config,
            "batch_size": self.batch_size,
            "device": self.device,
            "precision": self.precision,
        }
        if side == "public":
            return ReferenceTrainingStep(model=model, **common)
        step = TrainingStep(**common, compile=False)
        take_weights(step.model.network, model.dit)
        return step

    def drawings(self, *, guidance_scale: float, public_steps: int) -> tuple[Drawing, ReferenceDrawing]:
        """Our sampling run and the public one, from the same noise and captions with the same weights."""
        model = public_model(self.folder, self.config, self.backbone)
        ours = Drawing(
            config=self.config,
            batch_size=self.batch_size,
            guidance_scale=guidance_scale,
            device=self.device,
            precision=self.precision,
        )
        take_weights(ours.network, model.dit)
        public = ReferenceDrawing(
            model=model,
            noise=ours.noise,
            captions=ours.text.tokens,
            steps=public_steps,
            guidance_scale=guidance_scale,
            precision=self.precision,
        )
        return ours, public

    def peak_memory(self, side: Side, steps: int = 2) -> int:
        """Bytes that a fresh process holds at most in some training steps, not counting how the models were made."""
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(_peak_of_steps, self, side, steps, torch.get_num_threads()).result()


def compare_training(comparison: Comparison, measurement: Measurement) -> Row:
    """Training steps, ours and the public code's in turn, and the memory of each."""
    ours, public = comparison.training_step("ours"), comparison.training_step("public")
    ratio = alternate(ours, public, repeats=measurement.repeats, device=measurement.device, clock=measurement.clock)
    del ours, public
    peak, public_peak = (comparison.peak_memory(side) for side in ("ours", "public"))
    return ratio.row("seconds_per_step", 1) | {
        "peak_memory_bytes": peak,
        "reference_peak_memory_bytes": public_peak,
        "peak_memory_ratio": peak / public_peak,
    }


def compare_drawing(
    comparison: Comparison, measurement: Measurement, *, guidance_scale: float, public_steps: int
) -> Row:
    """Sampling runs, ours and the public code's in turn, from the same noise with the same weights."""
    ours, public = comparison.drawings(guidance_scale=guidance_scale, public_steps=public_steps)
    difference = {"prediction_difference": prediction_difference(ours, public)}
    ratio = alternate(ours, public, repeats=measurement.repeats, device=measurement.device, clock=measurement.clock)
    return ratio.row("seconds_per_image", comparison.batch_size) | difference


def take_weights(network: nn.Module, public: Any) -> None:
    """Give our network the public one's weights."""
    assert isinstance(network, SparseDiT)
    network.load_state_dict(import_microdit(public.state_dict(), network))


def alternate(
    ours: Callable[[], object], public: Callable[[], object], *, repeats: int, device: torch.device, clock: Clock
) -> Ratio:
    """Time both in turn, after one repetition of each that does not count."""
    seconds: list[tuple[float, float]] = []
    for _ in range(1 + repeats):
        start = now(device, clock)
        ours()
        middle = now(device, clock)
        public()
        seconds.append((middle - start, now(device, clock) - middle))
    kept = seconds[1:]
    ratios = [theirs / own for own, theirs in kept]
    own, theirs = (statistics.median(side) for side in zip(*kept, strict=True))
    return Ratio(own, theirs, statistics.median(ratios), min(ratios), max(ratios))


@torch.no_grad()
def prediction_difference(ours: Drawing, public: ReferenceDrawing) -> float:
    """Largest difference of one prediction of both networks in fp32, over the largest number in it."""
    level = torch.zeros(len(ours.noise), device=ours.device)
    made = ours.network(ours.noise, level, TextCondition(ours.text.tokens)).value
    expected = public.model.dit(public.noise, level, public.captions)["sample"]
    return ((made - expected).abs().max() / expected.abs().max()).item()


def _peak_of_steps(comparison: Comparison, side: Side, steps: int, threads: int) -> int:
    """In a process of its own."""
    torch.set_num_threads(threads)
    step = comparison.training_step(side)
    forget_peak_memory(comparison.device)
    for _ in range(steps):
        step()
    return peak_memory(comparison.device)
