"""Room for what the examined stages will write, less what they have written already."""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from micro_diffusion.checkpoint import WEIGHT_FILES
from micro_diffusion.doctor.finding import Doubt
from micro_diffusion.performance.memory import saved_by
from micro_diffusion.training.checkpoints.run_folder import RunFolder
from micro_diffusion.training.checkpoints.saver import checkpoints_left


class Outlay(NamedTuple):
    """What a run writes into one folder.

    folder: of its checkpoints or of its weights. files: patterns of these files in it. kept: bytes of them that stay in
    the end. unfinished: of the checkpoint that is being written. run: that writes them.
    """

    folder: Path
    files: tuple[str, ...]
    kept: int
    unfinished: int
    run: RunFolder


def outlays_of(config: DictConfig, parameters: int, trained: int | None = None) -> list[Outlay]:
    """What a training of so many parameters, of which so many are trained, writes beside small files.

    With `trainer.save_num_checkpoints_to_keep=-1` and an interval in other units than the end, how many checkpoints
    stay is not known, and at least one counts; `check_disk` says so.
    """
    saved, trainer = saved_by(config, parameters, trained), config.trainer
    content: Any = OmegaConf.to_container(config, resolve=True)
    run = RunFolder(Path(config.output_dir) / config.exp_name, content)
    weights = Outlay(run.path, tuple(WEIGHT_FILES.values()), saved.weights, 0, run)
    if run.checkpoints is None:
        return [weights]
    kept = (_checkpoints_left(trainer) or 1) * saved.checkpoint
    return [weights, Outlay(run.checkpoints, ("ep*", "ep*/**/*"), kept, saved.checkpoint, run)]


def check_disk(outlays: Sequence[Outlay]) -> str:
    """The folders can be written, and their disks hold what the runs, one after another, add to them."""
    of_disk: dict[int, list[Outlay]] = defaultdict(list)
    for outlay in outlays:
        folder = _existing_parent(outlay.folder)
        if not os.access(folder, os.W_OK):
            key = "trainer.save_folder" if outlay.unfinished else "output_dir"
            raise PermissionError(f"{folder} cannot be written; set {key} to a folder of yours")
        of_disk[folder.stat().st_dev].append(outlay)
    room = ", ".join(_check_room(together) for together in of_disk.values())
    for trainer in (outlay.run.config["trainer"] for outlay in outlays if outlay.unfinished):
        if _checkpoints_left(trainer) is None:
            raise Doubt(
                f"{room}, with one checkpoint, but how many {trainer['max_duration']} leave with one every "
                f"{trainer['save_interval']} is not known; set trainer.save_num_checkpoints_to_keep, or "
                "trainer.save_interval in the units of trainer.max_duration"
            )
    return room


def _checkpoints_left(trainer: Mapping[Any, Any]) -> int | None:
    keep, interval, end = (trainer[key] for key in ("save_num_checkpoints_to_keep", "save_interval", "max_duration"))
    return checkpoints_left(keep=keep, interval=interval, end=end)


def _check_room(outlays: Sequence[Outlay]) -> str:
    unfinished = [outlay for outlay in outlays if not outlay.run.is_complete]
    need = sum(max(outlay.kept - _written(outlay), 0) for outlay in unfinished)
    need += max((outlay.unfinished for outlay in unfinished), default=0)
    folder = _existing_parent(outlays[0].folder)
    free = shutil.disk_usage(folder).free
    if free < need:
        raise OSError(
            f"{folder} has {free / 1e9:.1f} GB free, but checkpoints and weights need {need / 1e9:.1f} GB; set "
            "output_dir to a larger disk, or make room"
        )
    return f"{free / 1e9:.1f} GB free in {folder}, {need / 1e9:.2f} GB needed"


def _written(outlay: Outlay) -> int:
    """Bytes of the checkpoints and weights that are there, which count for nothing more."""
    found = {path for pattern in outlay.files for path in outlay.folder.glob(pattern)}
    return sum(path.stat().st_size for path in found if path.is_file() and not _is_damaged(path, outlay.folder))


def _is_damaged(path: Path, folder: Path) -> bool:
    return path.relative_to(folder).parts[0].endswith(".damaged")


def _existing_parent(path: Path) -> Path:
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())
