"""How fast the loader makes batches of latents, beside bare reading of the same data set."""

from __future__ import annotations

import os
import tempfile
from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np

from micro_diffusion.data.format.caption_formats import EXACT_CAPTIONS, CaptionFeatures
from micro_diffusion.data.format.latent_formats import EXACT_LATENTS, Int8Latents
from micro_diffusion.data.prepare.random_latents import write_latents
from micro_diffusion.data.stream.integrity import shard_files
from micro_diffusion.data.stream.loader import build_loader
from micro_diffusion.performance.measurement import Measurement
from micro_diffusion.performance.report import Row
from micro_diffusion.performance.timing import forget_peak_memory

FORMATS = {
    "": (EXACT_LATENTS, EXACT_CAPTIONS),
    "compact_": (Int8Latents(), CaptionFeatures(dtype="int8", padded=False)),
}
"""What keys of results begin with, and how the latents and captions are stored."""


def loading(measurement: Measurement, *, samples: int) -> Row:
    """Shuffled batches of latents of the full recipe's size, from the page cache, in this process.

    The keys that begin with `compact_` are of latents in 8 bits, and of captions in 8 bits up to end-of-text.
    """
    row: Row = {}
    forget_peak_memory(measurement.device)
    with tempfile.TemporaryDirectory() as folder:
        for prefix, (latents, captions) in FORMATS.items():
            out = Path(folder) / f"{prefix}latents"
            path = write_latents(out, samples=samples, latents=latents, captions=captions)
            batches = build_loader(path=str(path), resolution=256, batch_size=measurement.batch_size, shuffle=True)
            raw = measurement.timed(raw_read(path))
            timing = measurement.timed(lambda batches=batches: deque(batches, maxlen=0))
            row |= {
                f"{prefix}bytes_per_sample": bytes_per_sample(path),
                f"{prefix}raw_read_samples_per_second": samples / raw.seconds,
                # the first epoch compares every shard with its hash
                f"{prefix}first_epoch_samples_per_second": samples / timing.first,
                f"{prefix}samples_per_second": samples / timing.seconds,
                f"{prefix}spread": timing.spread,
            }
            if not prefix:
                row |= measurement.results(timing, samples)
    return row


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
