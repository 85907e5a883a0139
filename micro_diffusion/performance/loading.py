"""Bare reading of a data set, beside which the loader is measured."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from micro_diffusion.data.integrity import shard_files


def bytes_per_sample(folder: Path) -> float:
    """Bytes of all shards of a folder, divided among its samples."""
    shards = shard_files(folder)
    return sum(path.stat().st_size for path, _ in shards) / sum(samples for _, samples in shards)


def raw_read(folder: Path) -> Callable[[], None]:
    """Reads every byte of a folder, a sample's worth at a time, without any order, check or batch."""
    shards = shard_files(folder)

    def read() -> None:
        for path, samples in shards:
            file, size = os.open(path, os.O_RDONLY), path.stat().st_size // samples
            for number in range(samples):
                np.frombuffer(os.pread(file, size, number * size), np.uint8)
            os.close(file)

    return read
