"""In which precision a network computes, whatever its weights are stored in."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["auto", "fp32", "bf16"]


def computes_in_bf16(device_type: str, precision: Precision = "auto") -> bool:
    """Whether to compute in bf16 on this type of device ("cpu", "cuda", "mps").

    "auto" says yes where the device multiplies bf16 natively: on CUDA GPUs that support it, and on CPUs with
    AVX512-BF16 or AMX. Elsewhere bf16 is emulated and slower than fp32.

    Raises:
        ValueError: for another precision.
    """
    if precision not in ("auto", "fp32", "bf16"):
        raise ValueError(f"precision is {precision!r}; set it to auto, fp32 or bf16")
    if precision != "auto":
        return precision == "bf16"
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device_type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def autocast(device_type: str, precision: Precision = "auto") -> torch.autocast:
    """A context in which matrix products run in bf16 where `computes_in_bf16` says so, and in fp32 elsewhere."""
    return torch.autocast(device_type, torch.bfloat16, enabled=computes_in_bf16(device_type, precision))
