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
@click.option("--count", type=POSITIVE, default=1, show_default=True, help="Images for each prompt.")
@click.option("--resolution", type=RESOLUTION, help="Pixels: 256, or HEIGHTxWIDTH.  [default: the run's]")
@click.option("--sharpness", type=float, default=0.0, help="Added to channel 3 of SDXL's latents, such as 0.1.")
@click.option("--brightness", type=float, default=0.0, help="Added to channel 0 of SDXL's latents, such as 0.1.")
@click.option("--out", type=FILE, help="Image file or folder.  [default: a new generated.png]")
def generate(
    generation: GenerationOptions,
    prompts: tuple[str, ...],
    count: int,
    resolution: Any,
    sharpness: float,
    brightness: float,
    out: Path | None,
) -> None:
    """Generate images with RUN: a run folder, the name of one in trained_models, or the bundled demo.

    Without a PROMPT, those of the run's config are generated. One image becomes a plain image file; several become a
    captioned grid, or numbered files beside a list of their prompts when --out is a folder. A PNG carries its prompts
    and settings as text.
    """
    from micro_diffusion.cli.runs import described, generate_images, open_run
    from micro_diffusion.sampling.grid import captioned_grid, to_pil
    from micro_diffusion.sampling.image_file import check_image_file, free_path, make_folder, save_image
    from micro_diffusion.sampling.latent_editing import LatentEdit

    out = out or free_path(Path("generated.png"))
    as_folder = out.is_dir() or not out.suffix
    if not as_folder:
        check_image_file(out)
    run, pipeline, settings = open_run(generation)
    captions = [prompt for prompt in prompts or run.prompts.captions for _ in range(count)]
    settings["resolution"] = resolution or pipeline.trained_resolution
    edit = LatentEdit(sharpness=sharpness, brightness=brightness)
    images = generate_images(pipeline, captions, generation, edit=edit, **settings)

    generated_with = described(run, {**settings, **{name: value for name, value in edit._asdict().items() if value}})
    if as_folder:
        make_folder(out)
        for index, (image, prompt) in enumerate(zip(images, captions, strict=True)):
            save_image(to_pil(image), out / f"{index:04d}.png", {"prompt": prompt, "index": index, **generated_with})
        lines = [f"{index:04d}.png\t{' '.join(prompt.split())}\n" for index, prompt in enumerate(captions)]
        (out / "prompts.txt").write_text("".join(lines), encoding="utf-8")
    else:
        sheet = to_pil(images[0]) if len(images) == 1 else captioned_grid(images, captions)
        save_image(sheet, out, {"prompts": captions, **generated_with})
    print(f"{out}: {len(images)} image{'s' * (len(images) > 1)}, {run.weights} weights of {run.folder}")
