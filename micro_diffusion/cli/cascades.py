"""Cascades as commands take them: several runs in a row, or one folder that names them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from micro_diffusion.cli.cascade_options import CascadeOptions
from micro_diffusion.cli.options import GenerationOptions
from micro_diffusion.data.image.open_image import UnreadableImage, read_image
from micro_diffusion.data.image.transforms import to_tensor
from micro_diffusion.files.run_folders import CONFIG_FILE, RUNS, find_run
from micro_diffusion.machine.device import usable_device
from micro_diffusion.machine.precision import autocast
from micro_diffusion.machine.tensor_memory import keep_freed_memory
from micro_diffusion.sampling.cascade import Cascade, StageImages
from micro_diffusion.sampling.guidance import EVERY_LEVEL
from micro_diffusion.saved_cascade import CASCADE_FILE, open_cascade


def stages_before_prompts(run: str, words: Sequence[str]) -> tuple[list[Path], list[str]]:
    """RUN and the words after it -> the runs of a cascade and the prompts; words that name run folders are runs.

    A single run that is no cascade gives no runs.
    """
    count = 0
    while count < len(words) and _is_run(words[count]):
        count += 1
    _refuse_files(words[count:])
    runs = [find_run(name) for name in (run, *words[:count])]
    several = len(runs) > 1 or (runs[0] / CASCADE_FILE).is_file()
    return (runs if several else []), list(words[count:])


def _refuse_files(prompts: Sequence[str]) -> None:
    """Raise ValueError for a prompt that is the name of a file."""
    for prompt in prompts:
        if len(prompt) < 200 and Path(prompt).suffix and Path(prompt).is_file():
            raise ValueError(
                f"the prompt {prompt!r} is a file; give its lines as prompts, each in quotes, or with --prompts-file"
            )


def _is_run(word: str) -> bool:
    return any((parent / word / CONFIG_FILE).is_file() for parent in (Path(), RUNS) if len(word) < 200)


def cascade_of(runs: Sequence[Path], options: GenerationOptions) -> Cascade:
    """The cascade of these runs; ValueError for options that no cascade takes."""
    for name in ("sampler", "levels", "configs", "guidance_rescale", "weaker", "compile"):
        if getattr(options, name):
            raise ValueError(
                f"--{name.replace('_', '-')} has no effect on a cascade, whose stages have samplers and guidance of "
                "their own; leave it out"
            )
    place = usable_device(options.device)
    keep_freed_memory(place.type)
    return open_cascade(runs, weights=options.weights, device=place)


def run_cascade(
    cascade: Cascade, captions: Sequence[str], options: GenerationOptions, stages: CascadeOptions
) -> list[StageImages]:
    """What every stage has made, in the precision asked for, with a progress bar where somebody watches."""
    for name, one, each in (
        ("steps", options.steps, stages.stage_steps),
        ("guidance", options.guidance_scale, stages.stage_guidance),
    ):
        if one is not None and each:
            raise ValueError(f"the {name} of all stages and --stage-{name} are both given; leave one of them out")
    count = len(cascade.stages)
    steps = [whole(number) for number in stages.stage_steps or ()]
    low, high = options.guidance_interval or EVERY_LEVEL
    with (
        tqdm(unit="image", leave=False, disable=not sys.stderr.isatty()) as bar,
        autocast(usable_device(options.device).type, options.precision),
    ):
        made = cascade.run(
            captions,
            seed=options.seed or 0,
            steps=steps or [options.steps] * count,
            guidance_scales=stages.stage_guidance or [options.guidance_scale] * count,
            image=None if stages.image is None else image_tensor(stages.image),
            stop=None if stages.stop_after is None else stages.stop_after - 1,
            batch_size=options.batch_size,
            on_batch=bar.update,
            guidance_interval=(low, high),
        )
        return list(made)


def whole(number: float) -> int:
    """A number of steps; ValueError for one that is not whole."""
    if number != int(number) or number < 1:
        raise ValueError(f"--stage-steps has {number:g}, which is no number of steps; use whole ones of at least 1")
    return int(number)


def image_tensor(path: Path) -> Tensor:
    """An image file as uint8 (3, H, W)."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no image {path}; give the path of one")
    try:
        return to_tensor(read_image(path.read_bytes()).rgb)
    except UnreadableImage as error:
        raise ValueError(f"{path} cannot be read as an image; give another file") from error


def rows_of_stages(made: Sequence[StageImages]) -> Tensor:
    """The images of each stage, the smaller ones enlarged by repetition to the size of the last, stage after stage."""
    size = made[-1].images.shape[-2:]
    return torch.cat([functional.interpolate(stage.images, size, mode="nearest") for stage in made])


def described_cascade(
    runs: Sequence[Path], made: Sequence[StageImages], options: GenerationOptions, stages: CascadeOptions
) -> dict[str, Any]:
    """What images were generated with, as it is kept beside them."""
    return {
        "folders": [str(folder) for folder in runs],
        "stages": [stage.name for stage in made],
        "seed": options.seed or 0,
        "steps": stages.stage_steps or options.steps,
        "guidance_scale": stages.stage_guidance or options.guidance_scale,
        "gpu_peak_bytes": [stage.peak_bytes for stage in made],
    }
