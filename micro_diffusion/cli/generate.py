"""`micro-diffusion generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from micro_diffusion.cli.arguments import FILE, POSITIVE, RESOLUTION
from micro_diffusion.cli.cascade_options import CascadeOptions, cascade_options
from micro_diffusion.cli.options import GenerationOptions, generation_options

MOST_COLUMNS = 8
"""Up to so many images of a prompt make a row of their own."""


@click.command(short_help="generate images")
@generation_options
@click.argument("prompts", metavar="[PROMPT]...", nargs=-1)
@click.option("--count", type=POSITIVE, default=1, show_default=True, help="Images for each prompt.")
@click.option("--resolution", type=RESOLUTION, help="Pixels: 256, or HEIGHTxWIDTH.  [default: the run's]")
@click.option("--sharpness", type=float, default=0.0, help="Added to channel 3 of SDXL's latents, such as 0.1.")
@click.option("--brightness", type=float, default=0.0, help="Added to channel 0 of SDXL's latents, such as 0.1.")
@click.option("--out", type=FILE, help="Image file or folder.  [default: a new generated.png]")
@cascade_options
def generate(
    generation: GenerationOptions,
    prompts: tuple[str, ...],
    count: int,
    resolution: Any,
    sharpness: float,
    brightness: float,
    out: Path | None,
    stages: CascadeOptions,
) -> None:
    """Generate images with RUN: a run folder, the name of one in trained_models, or the bundled demo.

    Without a PROMPT, those of the run's config are generated. One image becomes a plain image file; several become a
    captioned grid, or numbered files beside a list of their prompts when --out is a folder. A PNG carries its prompts
    and settings as text.

    Several runs before the prompts are a cascade, each enlarging what the one before has made; so is a folder with a
    cascade.yaml.
    """
    from micro_diffusion.cli.cascades import stages_before_prompts
    from micro_diffusion.cli.runs import described, generate_images, open_run
    from micro_diffusion.sampling.image_file import check_image_file, free_path
    from micro_diffusion.sampling.latent_editing import LatentEdit

    out = out or free_path(Path("generated.png"))
    as_folder = out.is_dir() or not out.suffix
    if not as_folder:
        check_image_file(out)
    runs, words = stages_before_prompts(generation.run, prompts)
    if runs:
        if sharpness or brightness:
            raise ValueError("--sharpness and --brightness edit latents, which a cascade has none of; leave them out")
        if resolution is not None:
            raise ValueError("--resolution has no effect on a cascade, whose stages have their own; leave it out")
        _generate_cascade(runs, [word for word in words for _ in range(count)], generation, stages, out, as_folder)
        return
    stages.refuse()
    run, pipeline, settings = open_run(generation)
    captions = [prompt for prompt in words or run.prompts.captions for _ in range(count)]
    settings["resolution"] = resolution or pipeline.trained_resolution
    edit = LatentEdit(sharpness=sharpness, brightness=brightness)
    images = generate_images(pipeline, captions, generation, edit=edit, **settings)

    generated_with = described(run, {**settings, **{name: value for name, value in edit._asdict().items() if value}})
    if as_folder:
        write_folder(out, images, captions, generated_with)
    else:
        write_sheet(out, images, captions, generated_with, columns=count if 1 < count <= MOST_COLUMNS else None)
    print(f"{out}: {len(images)} image{'s' * (len(images) > 1)}, {run.weights} weights of {run.folder}")


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
