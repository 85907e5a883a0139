"""`micro-diffusion export`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from micro_diffusion.checkpoint import export_run
from micro_diffusion.cli.runs import find_run


def add(commands: Any) -> None:
    """Describe the command and its options to argparse."""
    parser = commands.add_parser("export", help="copy what generating needs of a run into a new folder")
    parser.add_argument("run", metavar="RUN", help="as for generate")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the run folder to make")
    parser.add_argument("--weights", choices=["ema", "raw"], help="default: ema where the run has them, else raw")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], help="default: as they are")
    parser.set_defaults(command=execute)


def execute(options: argparse.Namespace) -> None:
    """`micro-diffusion export`."""
    dtype = None if options.dtype is None else getattr(torch, options.dtype)
    path = export_run(find_run(options.run), options.folder, weights=options.weights, dtype=dtype)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
