"""Which operators the time of a piece of work goes to."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from micro_diffusion.performance.timing import now

SHOWN_ABOVE = 0.01
"""Share of the time below which an operator is counted with the rest."""


def operator_shares(work: Callable[[], object], *, repeats: int, device: torch.device) -> dict[str, float]:
    """Share of the time that each of torch's operators takes by itself, those it calls left out; the largest first.

    On a GPU it is the GPU's time. The first repetition is not counted.
    """
    work()
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiler:
        for _ in range(repeats):
            work()
        now(device, "wall")
    kind = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    times: dict[str, float] = {event.key: getattr(event, kind) for event in profiler.key_averages()}
    shares = {name: time / sum(times.values()) for name, time in times.items()}
    shown = {name: share for name, share in shares.items() if share >= SHOWN_ABOVE}
    return dict(sorted(shown.items(), key=lambda item: -item[1])) | {"the rest": 1 - sum(shown.values())}
