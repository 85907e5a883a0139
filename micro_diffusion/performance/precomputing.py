"""How fast images become latents."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

from hydra.utils import call

from micro_diffusion.performance.measurement import Measurement
from micro_diffusion.performance.plan import stage_configs
from micro_diffusion.performance.report import Row
from micro_diffusion.performance.timing import forget_peak_memory


def precomputing(measurement: Measurement, *, configs: Path, samples: int) -> Row:
    """Images of shapes to latents of 32 px, by the quickstart's autoencoder and text encoder, in this process.

    Args:
        measurement: of which a batch is what the encoders see at once.
        configs: folder of the configurations.
        samples: number of images, all encoded in each repetition.
    """
    forget_peak_memory(measurement.device)
    with tempfile.TemporaryDirectory() as folder:
        _run(configs, "quickstart_convert_train", f"out={folder}/images", f"source.count={samples}", "engine.count=1")
        made = itertools.count()

        def precompute() -> None:
            how = ["resolutions=[32]", "workers=0", f"batch_size={measurement.batch_size}"]
            _run(configs, "quickstart_precompute", f"images={folder}/images", f"out={folder}/{next(made)}", *how)

        return measurement.results(measurement.timed(precompute), samples)


def _run(configs: Path, name: str, *overrides: str) -> None:
    call(stage_configs(configs, [name], overrides)[name], _convert_="all")
