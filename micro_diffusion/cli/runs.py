"""Trained runs as commands take them: found by name, loaded, and generated with."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor
from tqdm import tqdm

from micro_diffusion.checkpoint import Run
from micro_diffusion.cli.options import GenerationOptions
from micro_diffusion.generation.pipeline import Pipeline
from micro_diffusion.machine.device import usable_device
from micro_diffusion.machine.precision import autocast
from micro_diffusion.sampling import pipeline as tensors


def open_pipeline(options: GenerationOptions) -> Pipeline:
    """The run that the options name, with its network compiled where they say so.

    Raises:
        ValueError: for a folder of configs without a sampler or levels to look for.
    """
    if options.sampler is None and options.levels is None and options.configs is not None:
        raise ValueError(
            f"--configs {options.configs} has no effect without --sampler or --levels; name one, or leave it out"
        )
    pipeline = Pipeline.from_run(
        options.run,
        weights=options.weights,
        device=options.device,
        precision=options.precision,
        sampler=options.sampler,
        levels=options.levels,
        weaker=options.weaker,
        configs=options.configs,
    )
    if options.compile:
        weaker = pipeline.tensors.weaker
        networks: list[Any] = [pipeline.run.backbone, *([] if weaker is None else [weaker.backbone])]
        for network in networks:
            network.compile(fullgraph=True)
    return pipeline


def open_run(options: GenerationOptions) -> tuple[Run, tensors.Pipeline, dict[str, Any]]:
    """The run, its pipeline of tensors, and how to generate: the options, or else the run's own."""
    opened = open_pipeline(options)
    run, pipeline = replace(opened.run, sampler=opened.tensors.sampler), opened.tensors
    asked = {"seed": options.seed, "guidance_scale": options.guidance_scale, "steps": options.steps}
    usual = {"seed": run.prompts.seed, "guidance_scale": run.prompts.guidance_scale, "steps": run.sampler.steps}
    chosen = {key: usual[key] if value is None else value for key, value in asked.items()}
    if options.guidance_interval is not None:
        chosen["guidance_interval"] = tuple(options.guidance_interval)
    if options.guidance_rescale:
        chosen["guidance_rescale"] = options.guidance_rescale
    return run, pipeline, chosen


def settings(options: GenerationOptions) -> dict[str, Any]:
    """Of `Pipeline.recipe`, as far as every command has them."""
    return {
        "steps": options.steps,
        "guidance_scale": options.guidance_scale,
        "guidance_interval": options.guidance_interval,
        "guidance_rescale": options.guidance_rescale,
    }


def generate_images(
    pipeline: tensors.Pipeline, prompts: Sequence[str], options: GenerationOptions, **settings: Any
) -> Tensor:
    """`Pipeline.generate` in the precision asked for, with a progress bar where somebody watches."""
    kind = usable_device(options.device).type
    bar = tqdm(total=len(prompts), unit="image", leave=False, disable=not sys.stderr.isatty())
    with bar, autocast(kind, options.precision):
        return pipeline.generate(prompts, batch_size=options.batch_size, on_batch=bar.update, **settings)


def described(run: Run, settings: Mapping[str, Any], options: GenerationOptions) -> dict[str, Any]:
    """What images were generated with, as it is kept beside them."""
    named = {"levels": options.levels, "weaker": options.weaker}
    chosen = {name: value for name, value in named.items() if value is not None}
    return {"run": run.folder.name, "weights": run.weights, "sampler": type(run.sampler).__name__, **chosen, **settings}
