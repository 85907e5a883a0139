"""`micro-diffusion evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from micro_diffusion.cli.arguments import FILE, POSITIVE
from micro_diffusion.cli.options import GenerationOptions, generation_options

if TYPE_CHECKING:
    from torch import Tensor


@click.command(short_help="score a run")
@generation_options
@click.option("--seed", type=int, help="Any integer; equal seeds generate equal images.  [default: the run's]")
@click.option("--count", type=POSITIVE, default=64, show_default=True, help="Images of each kind.")
@click.option("--out", type=FILE, required=True, help="JSON file for the scores.")
@click.option("--grid", type=FILE, help="Image file for the judged images.  [default: OUT ending in .png]")
def evaluate(generation: GenerationOptions, seed: int | None, count: int, out: Path, grid: Path | None) -> None:
    """Score RUN: is what captions of the shapes data set say in its images?

    Generates images for captions of one object, of two objects, and of combinations held out of training; judges
    background, count, colour, shape, size and relation in each, and writes the fraction that is right.
    """
    from micro_diffusion.checkpoint import parameter_count
    from micro_diffusion.cli.runs import open_pipeline, settings
    from micro_diffusion.evaluation.report import composition_report, write_report
    from micro_diffusion.sampling.image_file import check_image_file, make_folder, save_image

    grid = grid or out.with_suffix(".png")
    check_image_file(grid)
    make_folder(out.parent)
    pipeline = open_pipeline(generation)
    run, (height, width) = pipeline.run, pipeline.resolution
    if height != width:
        raise ValueError(f"{run.folder} generates {height}×{width}, but only square images can be judged; use generate")
    chosen = run.prompts.seed if seed is None else seed

    def generate(captions: Sequence[str]) -> Tensor:
        recipe = pipeline.recipe(captions, seed=chosen, **settings(generation))
        return pipeline.make_tensor(recipe, batch_size=generation.batch_size)

    report, image = composition_report(generate, count=count, seed=chosen)
    used = pipeline.recipe("", seed=chosen, **settings(generation)).described()
    generated_with = {key: value for key, value in used.items() if key not in ("prompts", "seeds")}
    generated_with |= {"seed": chosen, "sampler": pipeline.sampler_name}
    report |= {"parameters": parameter_count(run.backbone), "weights": run.weights, "settings": generated_with}
    write_report(report, out)
    save_image(image, grid, generated_with)
    scores = ", ".join(f"{kind} {value:.3f}" for kind, value in report["composition"].items())
    print(f"{out}: {scores}; the judged images are in {grid}")
