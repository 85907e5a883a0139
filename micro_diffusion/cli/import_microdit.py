"""`micro-diffusion import-microdit`."""

from __future__ import annotations

from pathlib import Path

import click

from micro_diffusion.cli.arguments import FILE
from micro_diffusion.files.run_folders import CONFIG_FILE


@click.command("import-microdit", short_help="make a run folder of released MicroDiT weights")
@click.argument("file", metavar="WEIGHTS", type=FILE)
@click.argument("folder", metavar="FOLDER", type=FILE)
def import_microdit(file: Path, folder: Path) -> None:
    """Make the run folder FOLDER of the released .pt file WEIGHTS."""
    if (folder / CONFIG_FILE).exists():
        raise FileExistsError(f"{folder} is a run folder already; choose a new one, or remove it first")
    from micro_diffusion.checkpoint import parameter_count
    from micro_diffusion.released_weights import import_run

    backbone = import_run(file, folder)
    print(f"{folder}: {parameter_count(backbone):,} parameters, latents of {backbone.input_size} cells")
