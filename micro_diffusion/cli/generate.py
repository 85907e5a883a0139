"""`micro-diffusion generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from micro_diffusion.cli.arguments import FILE, POSITIVE, RESOLUTION
from micro_diffusion.cli.options import GenerationOptions, generation_options


@click.command(short_help="generate images")
@generation_options
@click.argument("prompts", metavar="[PROMPT]...", nargs=-1)
@click.option("--prompts-file", type=FILE, help="A text file with one prompt a line, beside those given here.")
@click.option("--negative", default="", metavar="PROMPT", help="What the images are to go away from.")
@click.option(
    "--seed", type=int, multiple=True, help="Any integer; several give each prompt an image each.  [default: the run's]"
)
@click.option("--count", type=POSITIVE, default=1, show_default=True, help="Images for each prompt and seed.")
@click.option("--resolution", type=RESOLUTION, help="Pixels: 256, or HEIGHTxWIDTH.  [default: the run's]")
@click.option("--image", type=FILE, help="Start from this image; see --strength, --mask and --extend.")
@click.option("--strength", type=float, help="Of the change to --image, above 0 and at most 1.")
@click.option("--mask", type=FILE, help="Of the size of --image: only what is white in it is generated.")
@click.option("--resamplings", type=POSITIVE, help="How often --mask goes over each part of the way.  [default: 5]")
@click.option("--extend", metavar="SIDE=PIXELS", help="Make --image larger: left, right, top or bottom=96.")
@click.option("--frames", type=POSITIVE, help="Images on the way from each prompt or seed to the next.")
@click.option("--fps", type=float, default=10, show_default=True, help="Frames a second of a GIF or MP4.")
@click.option("--out", type=FILE, help="Image file or folder; .gif or .mp4 for --frames.  [default: generated.png]")
def generate(
    generation: GenerationOptions, prompts: tuple[str, ...], prompts_file: Path | None, **options: Any
) -> None:
    """Generate images with RUN: a run folder, the name of one in trained_models, or the bundled demo.

    Without a PROMPT, those of the run's config are generated. One image becomes a plain image file; several become a
    captioned grid, or numbered files beside a list of their prompts when --out is a folder. Frames become a strip, or a
    moving image. A PNG carries its whole recipe: `micro-diffusion show FILE` prints it.
    """
    from micro_diffusion.cli.results import check_out, save_results
    from micro_diffusion.cli.runs import open_pipeline, settings
    from micro_diffusion.generation.frames import way_between

    out, frames = check_out(options["out"], moves=options["frames"] is not None), options["frames"]
    chosen: list[Any] = [*prompts, *([] if prompts_file is None else lines_of(prompts_file))]
    pipeline = open_pipeline(generation)
    seeds: Any = options["seed"] or None
    if seeds is not None and len(seeds) == 1 and frames is None:
        seeds = seeds[0]
    if frames is not None:
        chosen, seeds = way_between(
            chosen or pipeline.run.prompts.captions, seeds or [pipeline.run.prompts.seed], frames
        )
    recipe = pipeline.recipe(
        chosen or None,
        negative_prompt=options["negative"],
        seed=seeds,
        count=options["count"],
        paired=frames is not None,
        resolution=options["resolution"],
        image=None if options["image"] is None else str(options["image"]),
        mask=None if options["mask"] is None else str(options["mask"]),
        strength=options["strength"],
        resamplings=options["resamplings"],
        extend=options["extend"],
        **settings(generation),
    )
    images = pipeline.make(recipe, batch_size=generation.batch_size)
    save_results(images, recipe, out, sampler=pipeline.sampler_name, fps=None if frames is None else options["fps"])
    number = f"{len(images)} image{'s' * (len(images) > 1)}"
    print(f"{out}: {number}, {pipeline.run.weights} weights of {pipeline.run.folder}")


def lines_of(path: Path) -> list[str]:
    """The lines of a text file that are not empty.

    Raises:
        ValueError: when there are none, or the file is no text.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8; write one prompt a line") from error
    if not lines:
        raise ValueError(f"{path} is empty; write one prompt a line")
    return lines
