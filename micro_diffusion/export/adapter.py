"""The adapter of a run that was fine-tuned by LoRA, alone, as peft and programs that know it open it."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from micro_diffusion.checkpoint import ADAPTER_FOLDER, Weights, choose_weights
from micro_diffusion.files.weight_file import read_tensors, write_tensors


def export_adapter(
    run: Path, folder: Path, *, weights: Weights | None = None, dtype: torch.dtype | None = None
) -> Path:
    """Copy a run's adapter into a new folder; returns the file of its tensors.

    Args:
        run: its folder.
        folder: the new one.
        weights: averaged or raw ones; None for the averaged ones where the run has them.
        dtype: what to round the numbers to; None keeps fp32.

    Raises:
        FileNotFoundError: when the run has no adapter.
        FileExistsError: when there is one in `folder` already.
    """
    chosen = choose_weights(run, weights)
    source, file = run / ADAPTER_FOLDER / chosen, "adapter_model.safetensors"
    if not (source / file).is_file():
        raise FileNotFoundError(
            f"{run} has no adapter, since all its weights were trained; export it without --format adapter"
        )
    if (folder / file).exists():
        raise FileExistsError(f"{folder} holds an adapter already; choose a new folder, or remove it first")
    tensors = {key: value.to(dtype) for key, value in read_tensors(source / file).items()}
    write_tensors(folder / file, tensors, weights=chosen)
    shutil.copyfile(source / "adapter_config.json", folder / "adapter_config.json")
    return folder / file
