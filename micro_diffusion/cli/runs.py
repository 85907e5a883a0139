"""Trained runs as commands take them: found by name, loaded, and generated with."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from micro_diffusion.checkpoint import Run, load_run
from micro_diffusion.cli.options import GenerationOptions
from micro_diffusion.files.configs import configs_folder
from micro_diffusion.files.run_folders import find_run
from micro_diffusion.machine.precision import autocast
from micro_diffusion.machine.tensor_memory import keep_freed_memory
from micro_diffusion.sampling.pipeline import Pipeline
from micro_diffusion.sampling.sampler import Sampler


def open_run(options: GenerationOptions) -> tuple[Run, Pipeline, dict[str, Any]]:
    """The run that the options name, its pipeline, and how to generate: the options, or else the run's own."""
    if options.sampler is None and options.configs is not None:
        raise ValueError(f"--configs {options.configs} has no effect without --sampler; name one, or leave it out")
    sampler = None if options.sampler is None else find_sampler(options.sampler, options.configs or configs_folder())
    place = usable_device(options.device)
    keep_freed_memory(place.type)
    run = load_run(find_run(options.run), weights=options.weights, device=place)
    if sampler is not None:
        run = replace(run, sampler=sampler)
    if options.compile:
        run.backbone.compile(fullgraph=True)
    pipeline = Pipeline(
        text_encoder=run.text_encoder,
        autoencoder=run.autoencoder,
        backbone=run.backbone,
        objective=run.objective,
        sampler=run.sampler,
        image_conditioner=run.image_conditioner,
    )
    asked = {"seed": options.seed, "guidance_scale": options.guidance_scale, "steps": options.steps}
    usual = {"seed": run.prompts.seed, "guidance_scale": run.prompts.guidance_scale, "steps": run.sampler.steps}
    settings = {key: usual[key] if value is None else value for key, value in asked.items()}
    if options.guidance_interval is not None:
        if settings["guidance_scale"] == 1:
            raise ValueError("--guidance-interval has no effect with a guidance scale of 1; leave one of them out")
        settings["guidance_interval"] = tuple(options.guidance_interval)
    return run, pipeline, settings


def usable_device(name: str | None) -> torch.device:
    """A torch device that is there, the GPU where there is one and no name; a ValueError when it cannot be used."""
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(name)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} cannot be used on this machine; use --device cpu") from error
    return chosen


def generate_images(pipeline: Pipeline, prompts: Sequence[str], options: GenerationOptions, **settings: Any) -> Tensor:
    """`Pipeline.generate` in the precision asked for, with a progress bar where somebody watches."""
    kind = usable_device(options.device).type
    bar = tqdm(total=len(prompts), unit="image", leave=False, disable=not sys.stderr.isatty())
    with bar, autocast(kind, options.precision):
        return pipeline.generate(prompts, batch_size=options.batch_size, on_batch=bar.update, **settings)


def described(run: Run, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What images were generated with, as it is kept beside them."""
    return {"run": run.folder.name, "weights": run.weights, "sampler": type(run.sampler).__name__, **settings}


def find_sampler(name: str, configs: Path) -> Sampler:
    """The sampler that an option of `configs`/sampler describes.

    Raises:
        FileNotFoundError: when there is none; lists those that exist.
    """
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    folder = configs / "sampler"
    if not (folder / f"{name}.yaml").is_file():
        there = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
        remedy = f"choose one of {there}" if there else "give --configs the folder of the stages"
        raise FileNotFoundError(f"there is no sampler {name} in {folder}; {remedy}")
    with initialize_config_dir(str(configs.resolve()), version_base="1.3"):
        return instantiate(compose(overrides=[f"+sampler={name}"]).sampler)
