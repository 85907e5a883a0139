"""`micro-diffusion generate`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from micro_diffusion.cli.arguments import positive, resolution
from micro_diffusion.cli.runs import described, generate_images, generation_options, open_run
from micro_diffusion.sampling.grid import captioned_grid, to_pil
from micro_diffusion.sampling.image_file import check_image_file, free_path, make_folder, save_image

_DESCRIPTION = """Generate images. One image becomes a plain image file; several become a captioned grid, or numbered
files beside a list of their prompts when --out is a folder. A PNG carries its prompts and settings as text."""


def add(commands: Any) -> None:
    """Describe the command and its options to argparse."""
    parser = commands.add_parser(
        "generate", parents=[generation_options()], help="generate images", description=_DESCRIPTION
    )
    parser.add_argument("prompts", metavar="PROMPT", nargs="*", help="default: the prompts of the run's config")
    parser.add_argument("--count", type=positive, default=1, help="images for each prompt")
    parser.add_argument("--resolution", type=resolution, help="pixels: 256, or HEIGHTxWIDTH (default: the run's)")
    parser.add_argument("--out", type=Path, help="image file or folder (default: a new generated.png)")
    parser.set_defaults(command=execute)


def execute(options: argparse.Namespace) -> None:
    """`micro-diffusion generate`."""
    out = options.out or free_path(Path("generated.png"))
    as_folder = out.is_dir() or not out.suffix
    if not as_folder:
        check_image_file(out)
    run, pipeline, settings = open_run(options)
    prompts = [prompt for prompt in options.prompts or run.prompts.captions for _ in range(options.count)]
    settings["resolution"] = options.resolution or pipeline.trained_resolution
    images = generate_images(pipeline, prompts, options, **settings)

    generated_with = described(run, settings)
    if as_folder:
        make_folder(out)
        for index, (image, prompt) in enumerate(zip(images, prompts, strict=True)):
            save_image(to_pil(image), out / f"{index:04d}.png", {"prompt": prompt, "index": index, **generated_with})
        lines = [f"{index:04d}.png\t{' '.join(prompt.split())}\n" for index, prompt in enumerate(prompts)]
        (out / "prompts.txt").write_text("".join(lines), encoding="utf-8")
    else:
        sheet = to_pil(images[0]) if len(images) == 1 else captioned_grid(images, prompts)
        save_image(sheet, out, {"prompts": prompts, **generated_with})
    print(f"{out}: {len(images)} image{'s' * (len(images) > 1)}, {run.weights} weights of {run.folder}")
