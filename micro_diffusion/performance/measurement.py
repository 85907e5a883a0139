"""Repeated measurements under the same conditions, each a row of results."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from omegaconf import DictConfig

from micro_diffusion.machine.precision import Precision
from micro_diffusion.performance.counting import count_flops
from micro_diffusion.performance.generation import Generation
from micro_diffusion.performance.profiling import operator_shares
from micro_diffusion.performance.report import Row, device_name
from micro_diffusion.performance.timing import (
    Clock,
    Timing,
    forget_peak_memory,
    measure,
    peak_memory,
    product_rate,
)
from micro_diffusion.performance.training_step import TrainingStep, training_flops

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Where work is done and how often it is repeated.

    Attributes:
        device: where the work is done.
        batch_size: images at once.
        warmup: repetitions thrown away, besides the first.
        repeats: repetitions of which the median counts.
        clock: by which they are timed.
    """

    device: torch.device
    batch_size: int
    warmup: int
    repeats: int
    clock: Clock

    def timed(self, work: Callable[[], object]) -> Timing:
        """The work's seconds."""
        return measure(work, warmup=self.warmup, repeats=self.repeats, device=self.device, clock=self.clock)

    def conditions(self) -> Row:
        """Where, when and how it was measured."""
        return {
            "batch_size": self.batch_size,
            "device": device_name(self.device),
            "threads": torch.get_num_threads(),
            "clock": self.clock,
            "torch": torch.__version__,
            "date": time.strftime("%Y-%m-%d"),
        }

    def results(self, timing: Timing, images: int) -> Row:
        """What a repetition on so many images gives."""
        return {
            "seconds_per_image": timing.seconds / images,
            "images_per_second": images / timing.seconds,
            "spread": timing.spread,
            "peak_memory_bytes": peak_memory(self.device),
        }


@dataclass(frozen=True, kw_only=True)
class NetworkMeasurement(Measurement):
    """The same for the network of a configuration, with its share of the machine's own rate (MFU).

    Attributes:
        config: a training configuration.
        precision: of the network's matrix products.
        compile: whether to compile the network, as one graph.
    """

    config: DictConfig
    precision: Precision
    compile: bool

    def training(self) -> Row:
        """Training steps on random latents."""
        rate = self._rate()
        step = self._training_step()
        timing = self.timed(step)
        row = {"optimizer": type(step.optimizer).__name__, "seconds_per_step": timing.seconds}
        return row | self._network_results(timing, training_flops(self.config), rate)

    def profile(self) -> Row:
        """Shares of the time of training steps that operators take."""
        return operator_shares(self._training_step(), repeats=self.repeats, device=self.device)

    def generation(self, *, guidance_scale: float, prepare: bool) -> Row:
        """Latents generated from random captions, without encoders.

        Args:
            guidance_scale: as for `guided_denoiser`.
            prepare: whether to do the work on captions once a run, rather than at every network call.
        """
        rate = self._rate()
        common = {
            "config": self.config,
            "guidance_scale": guidance_scale,
            "precision": self.precision,
            "prepare": prepare,
        }
        timing = self.timed(
            Generation(**common, batch_size=self.batch_size, device=self.device, compile=self.compile),
        )
        flops = count_flops(Generation(**common, batch_size=1, device=torch.device("meta")))
        return self._network_results(timing, flops, rate)

    def _training_step(self) -> TrainingStep:
        return TrainingStep(
            config=self.config,
            batch_size=self.batch_size,
            device=self.device,
            precision=self.precision,
            compile=self.compile,
        )

    def _rate(self) -> float:
        """The machine's own rate; the peak of memory is counted from here on."""
        rate = product_rate(self.device, DTYPES[self.precision], self.clock)
        forget_peak_memory(self.device)
        return rate

    def _network_results(self, timing: Timing, flops: int, rate: float) -> Row:
        achieved = flops * self.batch_size / timing.seconds
        return {
            **self.results(timing, self.batch_size),
            "compile_seconds": timing.first - timing.seconds if self.compile else 0.0,
            "flops_per_image": flops,
            "flops_per_second": achieved,
            "machine_flops_per_second": rate,
            "mfu": achieved / rate,
        }
