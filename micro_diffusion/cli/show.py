"""`micro-diffusion show`."""

from __future__ import annotations

from pathlib import Path

import click

from micro_diffusion.cli.arguments import FILE


@click.command(short_help="print how an image was made, or make it again")
@click.argument("file", metavar="FILE", type=FILE)
@click.option("--again", is_flag=True, help="Make the same image and say whether it is the same.")
@click.option("--out", type=FILE, help="Where the image made again goes.  [default: FILE-again.png]")
@click.option("--device", help="cpu, cuda, cuda:1.  [default: cuda where there is one, else cpu]")
def show(file: Path, again: bool, out: Path | None, device: str | None) -> None:
    """Print the recipe that FILE carries, a PNG or GIF that generate has made.

    Files that it names, such as an image to start from, are looked for from the current folder.
    """
    from micro_diffusion.generation.recipe import read_recipe, recipe_of, written

    described = read_recipe(file)
    if not again:
        if out is not None or device is not None:
            raise ValueError("--out and --device have no effect without --again; leave them out")
        print(written(described))
        return
    from PIL import Image

    from micro_diffusion.cli.results import arranged
    from micro_diffusion.generation.frames import differ_by
    from micro_diffusion.generation.pipeline import Pipeline
    from micro_diffusion.sampling.image_file import check_image_file, free_path, save_image

    recipe = recipe_of(described, file)
    out = out or free_path(file.with_name(f"{file.stem}-again.png"))
    check_image_file(out)
    pipeline = Pipeline.from_run(
        recipe.run,
        weights=recipe.weights,
        device=device,
        precision=recipe.precision,
        sampler=recipe.sampler,
        levels=recipe.levels,
        weaker=recipe.weaker,
        configs=recipe.configs,
    )
    pipeline.check_weights(recipe)
    images = pipeline.make(recipe)
    moves = getattr(Image.open(file), "is_animated", False)
    made = arranged(images, recipe, as_strip=moves or described.get("strip", False))
    save_image(made, out, described)
    with Image.open(file) as before:
        same = None if moves or before.size != made.size else differ_by(before, made)
    said = {None: "of another form than", 0: "equal to"}.get(same, f"differs by up to {same} of 255 from")
    print(f"{out}: {said} {file}")
