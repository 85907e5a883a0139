"""Room for what the examined stages will write, less what they have written already."""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig

from micro_diffusion.checkpoint import WEIGHT_FILES
from micro_diffusion.performance.memory import saved_by
from micro_diffusion.training.checkpoint_saver import checkpoints_left
from micro_diffusion.training.run_folder import COMPLETE_FILE


class Outlay(NamedTuple):
    """folder: of a run. kept: bytes that it keeps in the end. unfinished: of the checkpoint that is being written."""

    folder: Path
    kept: int
    unfinished: int


def outlay_of(config: DictConfig, parameters: int) -> Outlay:
    """What a training of so many parameters writes beside small files."""
    saved, trainer = saved_by(config, parameters), config.trainer
    left = checkpoints_left(
        keep=trainer.save_num_checkpoints_to_keep, interval=trainer.save_interval, end=trainer.max_duration
    )
    folder = Path(config.output_dir) / config.exp_name
    return Outlay(folder, left * saved.checkpoint + saved.weights, saved.checkpoint)


def check_disk(outlays: Sequence[Outlay]) -> str:
    """The folders can be written, and their disks hold what the runs, one after another, add to them."""
    of_disk: dict[int, list[Outlay]] = defaultdict(list)
    for outlay in outlays:
        folder = _existing_parent(outlay.folder)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"{folder} cannot be written; set output_dir to a folder of yours")
        of_disk[folder.stat().st_dev].append(outlay)
    return ", ".join(_check_room(together) for together in of_disk.values())


def _check_room(outlays: Sequence[Outlay]) -> str:
    unfinished = [outlay for outlay in outlays if not (outlay.folder / COMPLETE_FILE).is_file()]
    need = sum(max(outlay.kept - _written(outlay.folder), 0) for outlay in unfinished)
    need += max((outlay.unfinished for outlay in unfinished), default=0)
    folder = _existing_parent(outlays[0].folder)
    free = shutil.disk_usage(folder).free
    if free < need:
        raise OSError(
            f"{folder} has {free / 1e9:.1f} GB free, but checkpoints and weights need {need / 1e9:.1f} GB; set "
            "output_dir to a larger disk, or make room"
        )
    return f"{free / 1e9:.1f} GB free in {folder}, {need / 1e9:.2f} GB needed"


def _written(folder: Path) -> int:
    """Bytes of the checkpoints and weights that are there, which count for nothing more."""
    checkpoints = [path for path in folder.glob("checkpoints/ep*") if path.suffix != ".damaged"]
    files = [*checkpoints, *(file for path in checkpoints for file in path.rglob("*"))]
    files += [folder / name for name in WEIGHT_FILES.values()]
    return sum(path.stat().st_size for path in files if path.is_file())


def _existing_parent(path: Path) -> Path:
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())
