"""`micro-diffusion import-microdit`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from micro_diffusion.checkpoint import CONFIG_FILE, parameter_count
from micro_diffusion.released_weights import import_run


def add(commands: Any) -> None:
    """Describe the command and its options to argparse."""
    parser = commands.add_parser("import-microdit", help="make a run folder of released MicroDiT weights")
    parser.add_argument("file", type=Path, metavar="WEIGHTS", help="a released .pt file")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the run folder to make")
    parser.set_defaults(command=execute)


def execute(options: argparse.Namespace) -> None:
    """`micro-diffusion import-microdit`."""
    if (options.folder / CONFIG_FILE).exists():
        raise FileExistsError(f"{options.folder} is a run folder already; choose a new one, or remove it first")
    backbone = import_run(options.file, options.folder)
    print(f"{options.folder}: {parameter_count(backbone):,} parameters, latents of {backbone.input_size} cells")
