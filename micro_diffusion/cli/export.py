"""`micro-diffusion export`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from micro_diffusion.cli.arguments import FILE, RUN, WEIGHTS

FORMATS = {
    "run": "a run folder for this program",
    "adapter": "what fine-tuning by LoRA added to the weights, alone, in the format of peft",
    "diffusers": "a folder that diffusers opens where this package is not installed",
    "torch_export": "the network alone, as a program of torch.export",
    "onnx": "the network alone, as an ONNX graph",
}

EXPLAINED = "; ".join(f"{name}: {meaning}" for name, meaning in FORMATS.items()) + "."


@click.command(short_help="copy what generating needs of a run into a new folder")
@click.argument("runs", metavar="RUN...", type=RUN, nargs=-1, required=True)
@click.argument("folder", metavar="FOLDER", type=FILE)
@click.option("--format", "kind", type=click.Choice(list(FORMATS)), default="run", show_default=True, help=EXPLAINED)
@click.option("--weights", type=WEIGHTS, help="[default: ema where the run has them, else raw]")
@click.option("--dtype", type=click.Choice(["float32", "float16", "bfloat16"]), help="[default: as they are]")
@click.option("--license", help="License of the weights for the model card of diffusers, such as apache-2.0.")
def export(
    runs: tuple[str, ...], folder: Path, kind: str, weights: Any, dtype: str | None, license: str | None
) -> None:
    """Copy what generating needs of RUN, as for generate, into the new folder FOLDER.

    Several runs, from the base model up, become one folder of a cascade, which generate takes like a run.
    """
    import torch

    from micro_diffusion.files.run_folders import find_run

    if license is not None and kind != "diffusers":
        raise ValueError(f"--license {license} has no effect without --format diffusers; leave it out")
    chosen = None if dtype is None else getattr(torch, dtype)
    first, *further = runs
    if kind != "run":
        _export_as(kind, runs, folder, weights, chosen, license)
        return
    if further:
        from micro_diffusion.saved_cascade import save_cascade

        path = save_cascade([find_run(run) for run in runs], folder, weights=weights, dtype=chosen)
        print(f"{path}: {len(runs)} stages")
        return
    from micro_diffusion.checkpoint import export_run

    path = export_run(find_run(first), folder, weights=weights, dtype=chosen)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def _export_as(kind: Any, runs: Sequence[str], folder: Path, weights: Any, dtype: Any, license: str | None) -> None:
    """Export for other programs."""
    from micro_diffusion.files.run_folders import find_run

    if len(runs) > 1:
        raise ValueError(
            f"{len(runs)} runs are a cascade, for which the format {kind} has no place; export each of them alone"
        )
    run = find_run(runs[0])
    if kind == "adapter":
        from micro_diffusion.export.adapter import export_adapter

        path = export_adapter(run, folder, weights=weights, dtype=dtype)
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
        return
    if kind == "diffusers":
        from micro_diffusion.export.diffusers_folder import export_diffusers

        path = export_diffusers(run, folder, weights=weights, dtype=dtype, license=license)
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
        return
    if dtype is not None:
        raise ValueError(f"--dtype has no effect on the format {kind}, which is in float32; leave it out")
    from micro_diffusion.export.program import export_network

    made = export_network(run, folder, kind=kind, weights=weights)
    print(f"{made.path}: {made.path.stat().st_size / 1e6:.1f} MB, largest difference {made.difference:.1e}")
