"""`micro-diffusion evaluate --images`: scores by a judge that learns from real images of classes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from micro_diffusion.cli.options import GenerationOptions

TAKEN = {"run", "device", "precision", "compile", "batch_size"}
"""Options that hold for an autoencoder's run, or that have a value in any case."""


def score_by_class(
    generation: GenerationOptions, folder: Path, count: int
) -> tuple[dict[str, Any], Image.Image, dict[str, Any]]:
    """The report of a run that generates by class, or that trained an autoencoder; its grid; and how it was made.

    Raises:
        ValueError: for a run that is neither, images of other classes than the run's, and options without effect.
    """
    from micro_diffusion.files.run_folders import find_run

    run = find_run(generation.run)
    if (run / "autoencoder").is_dir():
        return _of_autoencoder(run, generation, folder)
    return _of_classes(generation, folder, count)


def _of_classes(
    generation: GenerationOptions, folder: Path, count: int
) -> tuple[dict[str, Any], Image.Image, dict[str, Any]]:
    from micro_diffusion.checkpoint import parameter_count
    from micro_diffusion.cli.runs import described, generate_images, open_run
    from micro_diffusion.evaluation.class_judge import LARGEST_SIDE
    from micro_diffusion.evaluation.class_report import class_report, reference
    from micro_diffusion.text.classes import ClassEncoder

    run, pipeline, settings = open_run(generation)
    if not isinstance(run.text_encoder, ClassEncoder):
        raise ValueError(f"{run.folder} does not generate by class; leave --images out")
    side = min(*pipeline.trained_resolution, LARGEST_SIDE)
    real = reference(folder, names=run.text_encoder.names, side=side)
    report, grid = class_report(
        lambda names: generate_images(pipeline, names, generation, **settings), real, count=count
    )
    about = described(run, settings, generation)
    report |= {"parameters": parameter_count(run.backbone), "weights": run.weights, "settings": about}
    return report, grid, about


def _of_autoencoder(
    run: Path, generation: GenerationOptions, folder: Path
) -> tuple[dict[str, Any], Image.Image, dict[str, Any]]:
    from micro_diffusion.autoencoder.saved import load_autoencoder
    from micro_diffusion.checkpoint import read_config
    from micro_diffusion.cli.runs import usable_device
    from micro_diffusion.evaluation.class_judge import LARGEST_SIDE
    from micro_diffusion.evaluation.class_report import reconstruction_report, reference

    idle = [name for name, value in asdict(generation).items() if value not in (None, ()) and name not in TAKEN]
    if idle:
        option = idle[0].replace("_", "-").replace("seeds", "seed")
        raise ValueError(f"--{option} has no effect on {run}, which trained an autoencoder; leave it out")
    autoencoder = load_autoencoder(run / "autoencoder", device=str(usable_device(generation.device)))
    side = min(read_config(run)["resolution"], LARGEST_SIDE)
    report, grid = reconstruction_report(autoencoder, reference(folder, names=None, side=side))
    return report, grid, {"run": run.name}
