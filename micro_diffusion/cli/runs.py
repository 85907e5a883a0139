"""Trained runs as commands take them."""

from __future__ import annotations

from typing import Any

from micro_diffusion.cli.options import GenerationOptions
from micro_diffusion.generation.pipeline import Pipeline


def open_pipeline(options: GenerationOptions) -> Pipeline:
    """The run that the options name, with its network compiled where they say so.

    Raises:
        ValueError: for a folder of configs without a sampler to look for.
    """
    if options.sampler is None and options.configs is not None:
        raise ValueError(f"--configs {options.configs} has no effect without --sampler; name one, or leave it out")
    pipeline = Pipeline.from_run(
        options.run,
        weights=options.weights,
        device=options.device,
        precision=options.precision,
        sampler=options.sampler,
        configs=options.configs,
    )
    if options.compile:
        pipeline.run.backbone.compile(fullgraph=True)
    return pipeline


def settings(options: GenerationOptions) -> dict[str, Any]:
    """Of `Pipeline.recipe`, as far as every command has them."""
    return {
        "steps": options.steps,
        "guidance_scale": options.guidance_scale,
        "guidance_interval": options.guidance_interval,
    }
