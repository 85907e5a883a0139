"""`micro-diffusion export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from micro_diffusion.cli.arguments import FILE, RUN, WEIGHTS


@click.command(short_help="copy what generating needs of a run into a new folder")
@click.argument("runs", metavar="RUN...", type=RUN, nargs=-1, required=True)
@click.argument("folder", metavar="FOLDER", type=FILE)
@click.option("--weights", type=WEIGHTS, help="[default: ema where the run has them, else raw]")
@click.option("--dtype", type=click.Choice(["float32", "float16", "bfloat16"]), help="[default: as they are]")
def export(runs: tuple[str, ...], folder: Path, weights: Any, dtype: str | None) -> None:
    """Copy what generating needs of RUN, as for generate, into the new run folder FOLDER.

    Several runs, from the base model up, become one folder of a cascade, which generate takes like a run.
    """
    import torch

    from micro_diffusion.checkpoint import export_run
    from micro_diffusion.files.run_folders import find_run

    chosen = None if dtype is None else getattr(torch, dtype)
    first, *further = runs
    if further:
        from micro_diffusion.saved_cascade import save_cascade

        path = save_cascade([find_run(run) for run in runs], folder, weights=weights, dtype=chosen)
        print(f"{path}: {len(runs)} stages")
        return
    path = export_run(find_run(first), folder, weights=weights, dtype=chosen)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
