"""Results of measurements, for people and for programs."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

Row = dict[str, Any]
"""Name and value of everything that one measurement was given and gave."""


def table(rows: Sequence[Row]) -> str:
    """Name and value of every result, one block for each row."""

    def text(value: Any) -> str:
        return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)

    return "\n\n".join("\n".join(f"{key:30} {text(value)}" for key, value in row.items()) for row in rows)


def device_name(device: torch.device) -> str:
    """The name of the GPU, or of this machine's processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
