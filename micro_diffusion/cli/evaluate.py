"""`micro-diffusion evaluate`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from micro_diffusion.checkpoint import parameter_count
from micro_diffusion.cli.arguments import positive
from micro_diffusion.cli.runs import described, generate_images, generation_options, open_run
from micro_diffusion.evaluation.report import composition_report, write_report
from micro_diffusion.sampling.image_file import check_image_file, make_folder, save_image

_DESCRIPTION = """Generate images for captions of the shapes data set (one object, two objects, combinations held out of
training), judge background, count, colour, shape, size and relation in each, and write the fraction that is right."""


def add(commands: Any) -> None:
    """Describe the command and its options to argparse."""
    parser = commands.add_parser(
        "evaluate", parents=[generation_options()], help="score a run", description=_DESCRIPTION
    )
    parser.add_argument("--count", type=positive, default=64, help="images of each kind")
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the scores")
    parser.add_argument("--grid", type=Path, help="image file for the judged images (default: OUT ending in .png)")
    parser.set_defaults(command=execute)


def execute(options: argparse.Namespace) -> None:
    """`micro-diffusion evaluate`."""
    grid = options.grid or options.out.with_suffix(".png")
    check_image_file(grid)
    make_folder(options.out.parent)
    run, pipeline, settings = open_run(options)
    height, width = pipeline.trained_resolution
    if height != width:
        raise ValueError(f"{run.folder} generates {height}×{width}, but only square images can be judged; use generate")
    report, image = composition_report(
        lambda captions: generate_images(pipeline, captions, options, **settings),
        count=options.count,
        seed=settings["seed"],
    )
    generated_with = described(run, settings)
    report |= {"parameters": parameter_count(run.backbone), "weights": run.weights, "settings": generated_with}
    write_report(report, options.out)
    save_image(image, grid, generated_with)
    scores = ", ".join(f"{kind} {value:.3f}" for kind, value in report["composition"].items())
    print(f"{options.out}: {scores}; the judged images are in {grid}")
