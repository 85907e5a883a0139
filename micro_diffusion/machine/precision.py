"""In which precision a network computes, whatever its weights are stored in."""

from __future__ import annotations

import logging
import time
from functools import cache
from typing import Literal, NamedTuple

import torch

log = logging.getLogger(__name__)

Precision = Literal["auto", "fp32", "bf16"]

SIDE = 768
"""Of the matrices that are multiplied to measure: as large as those of a small network, beyond the inner caches."""
REPEATS = 7
MARGIN = 1.1
"""How many times faster bf16 has to be, since it is less exact, and converting between the two takes time as well."""


class Rates(NamedTuple):
    """Of matrix products, GFLOP/s."""

    fp32: float
    bf16: float


def has_bf16(device_type: str) -> bool:
    """Whether a device ("cpu", "cuda", "mps") multiplies bf16 natively: GPUs that do, CPUs with AVX512-BF16 or AMX."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device_type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def computes_in_bf16(device_type: str, precision: Precision = "auto") -> bool:
    """Whether to compute in bf16 on this type of device ("cpu", "cuda", "mps").

    "auto" says yes on GPUs that multiply bf16 natively, and on such CPUs where it is faster than fp32, which is
    measured once in a process: some processors with AVX512-BF16 do it at half the rate.

    Raises:
        ValueError: for another precision.
    """
    if precision not in ("auto", "fp32", "bf16"):
        raise ValueError(f"precision is {precision!r}; set it to auto, fp32 or bf16")
    if precision != "auto":
        return precision == "bf16"
    if device_type != "cpu" or not has_bf16("cpu"):
        return has_bf16(device_type)
    rates = cpu_rates()
    return rates.bf16 > MARGIN * rates.fp32


def faster_on_cpu() -> Precision:
    """What "auto" is on this CPU, and a line in the log about it."""
    chosen: Precision = "bf16" if computes_in_bf16("cpu") else "fp32"
    if has_bf16("cpu"):
        log.info(
            "this CPU multiplies fp32 at %.0f and bf16 at %.0f GFLOP/s, so model.cpu_precision=auto is %s in this run",
            *cpu_rates(), chosen,
        )  # fmt: skip
    else:
        log.info("this CPU does not multiply bf16 natively, so model.cpu_precision=auto is fp32 in this run")
    return chosen


@cache
def cpu_rates() -> Rates:
    """The best of a few products of each kind, which take turns so that other programs disturb both alike."""
    matrices = {dtype: torch.ones(SIDE, SIDE, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)}
    seconds = dict.fromkeys(matrices, float("inf"))
    with torch.inference_mode():
        for _ in range(REPEATS):
            for dtype, matrix in matrices.items():
                start = time.perf_counter()
                matrix.mm(matrix)
                seconds[dtype] = min(seconds[dtype], time.perf_counter() - start)
    flops = 2e-9 * SIDE**3
    return Rates(flops / seconds[torch.float32], flops / seconds[torch.bfloat16])


def autocast(device_type: str, precision: Precision = "auto") -> torch.autocast:
    """A context in which matrix products run in bf16 where `computes_in_bf16` says so, and in fp32 elsewhere."""
    return torch.autocast(device_type, torch.bfloat16, enabled=computes_in_bf16(device_type, precision))
