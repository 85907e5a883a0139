"""`micro-diffusion evaluate`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from micro_diffusion.checkpoint import parameter_count
from micro_diffusion.cli.arguments import positive
from micro_diffusion.cli.runs import described, draw, drawing_options, open_run
from micro_diffusion.evaluation.report import composition_report, write_report
from micro_diffusion.sampling.image_file import check_picture_file, make_folder, save_picture

_DESCRIPTION = """Draw captions of the shapes data set (one object, two objects, and combinations held out of training),
judge background, count, colour, shape, size and relation in every picture, and write the fraction that is right."""


def add(commands: Any) -> None:
    """Describe the command and its options to argparse."""
    parser = commands.add_parser("evaluate", parents=[drawing_options()], help="score a run", description=_DESCRIPTION)
    parser.add_argument("--count", type=positive, default=64, help="pictures of each kind")
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the scores")
    parser.add_argument("--grid", type=Path, help="picture file for the judged pictures (default: OUT ending in .png)")
    parser.set_defaults(command=execute)


def execute(options: argparse.Namespace) -> None:
    """`micro-diffusion evaluate`."""
    grid = options.grid or options.out.with_suffix(".png")
    check_picture_file(grid)
    make_folder(options.out.parent)
    run, pipeline, settings = open_run(options)
    height, width = pipeline.trained_resolution
    if height != width:
        raise ValueError(f"{run.folder} draws {height}×{width}, but only square pictures can be judged; use generate")
    report, picture = composition_report(
        lambda captions: draw(pipeline, captions, options, **settings),
        count=options.count,
        seed=settings["seed"],
    )
    drawn_with = described(run, settings)
    report |= {"parameters": parameter_count(run.backbone), "weights": run.weights, "settings": drawn_with}
    write_report(report, options.out)
    save_picture(picture, grid, drawn_with)
    scores = ", ".join(f"{kind} {value:.3f}" for kind, value in report["composition"].items())
    print(f"{options.out}: {scores}; the judged pictures are in {grid}")
