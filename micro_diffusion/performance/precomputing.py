"""How fast pictures become latents."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from hydra.utils import call

from micro_diffusion.performance.measurement import Measurement
from micro_diffusion.performance.plan import stage_configs
from micro_diffusion.performance.report import Row
from micro_diffusion.performance.timing import Timing, now

CPU = torch.device("cpu")


def precomputing(measurement: Measurement, *, configs: Path, samples: int) -> Row:
    """Pictures of shapes to latents of 32 px, once, by the quickstart's autoencoder and text encoder.

    Args:
        measurement: whose clock counts.
        configs: folder of the configurations.
        samples: number of pictures.
    """
    with tempfile.TemporaryDirectory() as folder:
        _run(configs, "quickstart_convert_train", f"out={folder}/images", f"source.count={samples}", "engine.count=1")
        start = now(CPU, measurement.clock)
        latents = [f"images={folder}/images", f"out={folder}/latents", "resolutions=[32]", "workers=0"]
        _run(configs, "quickstart_precompute", *latents)
        seconds = now(CPU, measurement.clock) - start
    return {
        **measurement.results(Timing(seconds, 0.0, seconds), samples),
        "seconds_per_image": seconds / samples,
    }


def _run(configs: Path, name: str, *overrides: str) -> None:
    call(stage_configs(configs, [name], overrides)[name], _convert_="all")
