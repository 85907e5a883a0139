"""`micro-diffusion super-resolve`."""

from __future__ import annotations

from pathlib import Path

import click

from micro_diffusion.cli.arguments import FILE, OUT
from micro_diffusion.cli.options import GenerationOptions, generation_options


@click.command("super-resolve", short_help="enlarge an image")
@generation_options
@click.argument("image", metavar="IMAGE", type=FILE)
@click.option("--prompt", default="", help="What the image shows.  [default: unconditional]")
@click.option("--out", type=OUT, help="Image file.  [default: a new enlarged.png]")
def super_resolve(generation: GenerationOptions, image: Path, prompt: str, out: Path | None) -> None:
    """Enlarge IMAGE, of any size, with RUN: a run that was trained with image_conditioner=low_resolution."""
    from dataclasses import replace

    from micro_diffusion.cli.cascades import image_tensor
    from micro_diffusion.cli.runs import described, generate_images, open_run
    from micro_diffusion.sampling.enlarging import enlarged
    from micro_diffusion.sampling.grid import to_pil
    from micro_diffusion.sampling.image_file import check_image_file, free_path, save_image

    out = out or free_path(Path("enlarged.png"))
    check_image_file(out)
    if not prompt and generation.guidance_scale not in (None, 0.0):
        raise ValueError("--guidance-scale has no effect without a --prompt; give one, or leave it out")
    if not prompt and generation.weaker is not None:
        raise ValueError("--weaker has no effect without a --prompt; give one, or leave it out")
    run, pipeline, settings = open_run(generation if prompt else replace(generation, guidance_scale=0.0))
    small = image_tensor(image)
    large = enlarged(
        pipeline,
        small,
        lambda **given: generate_images(pipeline, [prompt], generation, **settings, **given),
    )
    save_image(to_pil(large), out, {"prompts": [prompt], **described(run, settings, generation)})
    print(f"{out}: {large.shape[-1]}×{large.shape[-2]} pixels of {small.shape[-1]}×{small.shape[-2]}")
