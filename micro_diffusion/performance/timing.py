"""Seconds of a repeated piece of work, the machine's own rate of matrix products, and peak memory."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

import torch

Clock = Literal["wall", "process"]
"""wall: time that passes. process: processor time of this process, for a machine that others use too."""

STATUS, FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
"""Where Linux tells and resets what a process holds."""

PRODUCT_SIZE = {"cpu": 1024, "cuda": 8192}
"""Side of the square matrices with which a device's rate is measured."""


class Timing(NamedTuple):
    """seconds: median of one repetition. spread: interquartile range over it, if several. first: the very first."""

    seconds: float
    spread: float | None
    first: float


def measure(
    work: Callable[[], object], *, warmup: int, repeats: int, device: torch.device, clock: Clock = "wall"
) -> Timing:
    """Repeat the work; the first repetition is reported apart, `warmup` more are thrown away.

    Raises:
        ValueError: for fewer than one repetition.
    """
    return measure_in_turn([work], warmup=warmup, repeats=repeats, device=device, clock=clock)[0]


def measure_in_turn(
    parts: Sequence[Callable[[], object]],
    *,
    warmup: int,
    repeats: int,
    device: torch.device,
    clock: Clock = "wall",
) -> list[Timing]:
    """The same for each part of a work whose parts follow one another in every repetition."""
    if repeats < 1 or warmup < 0:
        raise ValueError(f"{repeats} repetitions after {warmup} were asked for; choose at least 1 after 0 or more")
    seconds = []
    for _ in range(1 + warmup + repeats):
        ends = [now(device, clock)]
        for part in parts:
            part()
            ends.append(now(device, clock))
        seconds.append([end - start for start, end in pairwise(ends)])
    return [_timing(repetitions, repeats) for repetitions in zip(*seconds, strict=True)]


def _timing(seconds: Sequence[float], repeats: int) -> Timing:
    """Of all repetitions, of which the last ones count."""
    kept = seconds[-repeats:]
    median = statistics.median(kept)
    if repeats == 1:
        return Timing(median, None, seconds[0])
    low, _, high = statistics.quantiles(kept, n=4, method="inclusive")
    return Timing(median, (high - low) / median, seconds[0])


def now(device: torch.device, clock: Clock) -> float:
    """Seconds on the clock, after all work given to the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() if clock == "wall" else time.process_time()


def product_rate(device: torch.device, dtype: torch.dtype, clock: Clock = "wall") -> float:
    """FLOP/s of large square matrix products in this dtype: what this machine can reach at best."""
    size = PRODUCT_SIZE.get(device.type, PRODUCT_SIZE["cuda"])
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / measure(lambda: a @ b, warmup=2, repeats=9, device=device, clock=clock).seconds


def peak_memory(device: torch.device) -> int:
    """Bytes since `forget_peak_memory`: tensors on a GPU, else what this whole process held at most."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if STATUS.exists():  # getrusage would also count the process that started this one
        high = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(high.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def forget_peak_memory(device: torch.device) -> None:
    """Begin anew with the peak of a GPU, or of this process where its system can do that (Linux)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif FORGET.exists():
        FORGET.write_text("5")  # proc(5): the peak becomes what is resident now
