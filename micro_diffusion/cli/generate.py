"""`micro-diffusion generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from micro_diffusion.cli.arguments import FILE, OUT, POSITIVE, RESOLUTION
from micro_diffusion.cli.cascade_options import CascadeOptions, cascade_options
from micro_diffusion.cli.options import GenerationOptions, generation_options


@click.command(short_help="generate images")
@generation_options
@click.argument("prompts", metavar="[PROMPT]...", nargs=-1)
@click.option("--prompts-file", type=FILE, help="A text file with one prompt a line, beside those given here.")
@click.option("--negative", default="", metavar="PROMPT", help="What the images are to go away from.")
@click.option("--count", type=POSITIVE, default=1, show_default=True, help="Images for each prompt and seed.")
@click.option("--resolution", type=RESOLUTION, help="Pixels: 256, or HEIGHTxWIDTH.  [default: the run's]")
@click.option("--strength", type=float, help="Of the change to --image, above 0 and at most 1.")
@click.option("--mask", type=FILE, help="Of the size of --image: only what is white in it is generated.")
@click.option(
    "--region",
    type=click.Choice(["left", "right", "top", "bottom", "all"]),
    help="Half of --image that is generated, or all of it, instead of a --mask.",
)
@click.option("--resamplings", type=POSITIVE, help="How often --mask goes over each part of the way.  [default: 5]")
@click.option("--extend", metavar="SIDE=PIXELS", help="Make --image larger: left, right, top or bottom=96.")
@click.option("--frames", type=POSITIVE, help="Images on the way from each prompt or seed to the next.")
@click.option("--fps", type=float, default=10, show_default=True, help="Frames a second of a GIF or MP4.")
@click.option("--sharpness", type=float, default=0.0, help="Added to channel 3 of SDXL's latents, such as 0.1.")
@click.option("--brightness", type=float, default=0.0, help="Added to channel 0 of SDXL's latents, such as 0.1.")
@click.option("--out", type=OUT, help="Image file or folder; .gif or .mp4 for --frames.  [default: generated.png]")
@cascade_options
def generate(
    generation: GenerationOptions,
    stages: CascadeOptions,
    prompts: tuple[str, ...],
    prompts_file: Path | None,
    count: int,
    out: Path | None,
    frames: int | None,
    fps: float,
    **options: Any,
) -> None:
    """Generate images with RUN: a run folder, the name of one in trained_models, or the bundled demo.

    Without a PROMPT, those of the run's config are generated. One image becomes a plain image file; several become a
    captioned grid, or numbered files beside a list of their prompts when --out is a folder. Frames become a strip, or a
    moving image. A PNG carries its whole recipe: `micro-diffusion show FILE` prints it.

    Several runs before the prompts are a cascade, each enlarging what the one before has made; so is a folder with a
    cascade.yaml.
    """
    from micro_diffusion.cli.cascades import stages_before_prompts
    from micro_diffusion.cli.results import check_out, save_results
    from micro_diffusion.cli.runs import open_pipeline, settings
    from micro_diffusion.generation.frames import way_between

    out = check_out(out, moves=frames is not None)
    runs, words = stages_before_prompts(generation.run, prompts)
    chosen: list[Any] = [*words, *([] if prompts_file is None else lines_of(prompts_file))]
    if runs:
        _refuse_for_cascade({**options, "frames": frames})
        as_folder = out.is_dir() or not out.suffix
        _generate_cascade(runs, [word for word in chosen for _ in range(count)], generation, stages, out, as_folder)
        return
    stages.refuse()
    pipeline = open_pipeline(generation)
    own, seeds = pipeline.run.prompts, list(generation.seeds)
    if frames is not None:
        chosen, seeds = way_between(chosen or own.captions, seeds or [own.seed], frames)
    recipe = pipeline.recipe(
        chosen or None,
        negative_prompt=options.pop("negative"),
        seed=seeds if frames is not None or len(seeds) > 1 else generation.seed,
        count=count,
        paired=frames is not None,
        image=None if stages.image is None else str(stages.image),
        mask=None if (mask := options.pop("mask")) is None else str(mask),
        **settings(generation),
        **options,
    )
    images = pipeline.make(recipe, batch_size=generation.batch_size)
    save_results(images, recipe, out, sampler=pipeline.sampler_name, fps=None if frames is None else fps)
    number = f"{len(images)} image{'s' * (len(images) > 1)}"
    print(f"{out}: {number}, {pipeline.run.weights} weights of {pipeline.run.folder}")


def _refuse_for_cascade(options: dict[str, Any]) -> None:
    """Raise ValueError for the first option that only a single run takes."""
    for name, value in options.items():
        if value:
            raise ValueError(f"--{name} has no effect on a cascade, whose stages have their own; leave it out")


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


def _generate_cascade(
    runs: list[Path],
    captions: list[str],
    generation: GenerationOptions,
    stages: CascadeOptions,
    out: Path,
    as_folder: bool,
) -> None:
    """The images of the last stage, or of every stage, as files or as a sheet."""
    from micro_diffusion.cli.cascades import cascade_of, described_cascade, rows_of_stages, run_cascade

    if not captions:
        raise ValueError("a cascade has no prompts of its own; give one after its runs")
    made = run_cascade(cascade_of(runs, generation), captions, generation, stages)
    generated_with = described_cascade(runs, made, generation, stages)
    kept = made if stages.all_stages else made[-1:]
    if as_folder:
        for stage in kept:
            folder = out / stage.name if stages.all_stages else out
            write_folder(folder, stage.images, captions, generated_with)
    else:
        write_sheet(out, rows_of_stages(kept), captions * len(kept), generated_with, columns=len(captions))
    print(f"{out}: {len(captions)} image{'s' * (len(captions) > 1)} of {' → '.join(s.name for s in made)}")


def write_folder(out: Path, images: Any, captions: list[str], described: dict[str, Any]) -> None:
    """Numbered files beside a list of their prompts."""
    from micro_diffusion.sampling.grid import to_pil
    from micro_diffusion.sampling.image_file import make_folder, save_image

    make_folder(out)
    for index, (image, prompt) in enumerate(zip(images, captions, strict=True)):
        save_image(to_pil(image), out / f"{index:04d}.png", {"prompt": prompt, "index": index, **described})
    lines = [f"{index:04d}.png\t{' '.join(prompt.split())}\n" for index, prompt in enumerate(captions)]
    (out / "prompts.txt").write_text("".join(lines), encoding="utf-8")


def write_sheet(
    out: Path, images: Any, captions: list[str], described: dict[str, Any], columns: int | None = None
) -> None:
    """One image as it is, several as a captioned grid."""
    from micro_diffusion.sampling.grid import captioned_grid, to_pil
    from micro_diffusion.sampling.image_file import save_image

    sheet = to_pil(images[0]) if len(images) == 1 else captioned_grid(images, captions, columns=columns)
    save_image(sheet, out, {"prompts": captions, **described})
