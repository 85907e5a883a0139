"""Checkpoints for resuming that are whole or not there, whenever the process or the machine stops."""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Callable
from pathlib import Path

from composer import Event, Logger, State
from composer.callbacks import CheckpointSaver
from composer.utils import create_interval_scheduler, dist, save_checkpoint

from micro_diffusion.torch_archive import check_archive
from micro_diffusion.whole_file import whole_file

log = logging.getLogger(__name__)

_STEP = re.compile(r"ep\d+-ba(?P<step>\d+)-rank0\.pt")
_LATEST = "latest-rank0.pt"


class WholeCheckpointSaver(CheckpointSaver):
    """Composer's saver for a local folder, safe against being killed.

    Composer 0.32 writes under the final name, and removes the link to the last checkpoint before it makes the new one:
    a kill leaves half a file, or a run that begins again. Here a checkpoint is written aside, synced and renamed, the
    link is replaced in one step, and only then do older checkpoints go. Before a run resumes, the newest file is read
    and compared with its checksums; one that is damaged is put aside in favour of the one before.

    Args:
        folder: for the checkpoints.
        interval: between them, as a Composer time such as `1000ba`; another one is written at the end of training.
        keep: how many of the newest stay; -1 keeps all.
        is_urgent: asked after every step for a reason to write one now.
    """

    def __init__(self, *, folder: str, interval: str, keep: int, is_urgent: Callable[[], bool]) -> None:
        is_due = create_interval_scheduler(interval)

        def is_due_or_urgent(state: State, event: Event) -> bool:
            return is_due(state, event) or is_urgent()

        super().__init__(
            folder=folder, remote_file_name=None, save_interval=is_due_or_urgent, num_checkpoints_to_keep=keep
        )

    def init(self, state: State, logger: Logger) -> None:
        """Point the link from which runs resume to the newest checkpoint that is whole, on the first rank."""
        super().init(state, logger)
        if state.fsdp_config is not None and state.fsdp_config.state_dict_type == "sharded":
            return  # those are folders, of whose link Composer takes care
        if dist.get_global_rank() == 0:
            folder = Path(self.folder)
            for unfinished in folder.glob("unfinished.*"):
                unfinished.unlink()
            self.saved_checkpoints = [str(path) for path in whole_checkpoints(folder)]
            _link(folder, self.saved_checkpoints)
        dist.barrier()

    def _save_checkpoint(self, state: State, logger: Logger) -> None:
        if state.fsdp_sharded_state_dict_enabled:  # a folder of files, one of each rank
            super()._save_checkpoint(state, logger)
            return
        self.last_checkpoint_batch = state.timestamp.batch
        path = Path(self.filename.format(state))
        if dist.get_global_rank():
            save_checkpoint(state, str(path))  # which writes on the first rank only
            return
        try:
            with whole_file(path) as unfinished:
                save_checkpoint(state, str(unfinished))
        except (OSError, RuntimeError) as error:
            if not _has_no_room(error):
                raise
            before = f"{self.saved_checkpoints[-1]} is whole" if self.saved_checkpoints else "there is none before it"
            raise OSError(
                f"there is no room to write the checkpoint {path}; {before}; make room and give the same command again"
            ) from error
        self.saved_checkpoints = [*(name for name in self.saved_checkpoints if name != str(path)), str(path)]
        _link(path.parent, self.saved_checkpoints)
        self._rotate_checkpoints()

    def _rotate_checkpoints(self, sharding_enabled: bool = False) -> None:
        if sharding_enabled:
            super()._rotate_checkpoints(sharding_enabled)
            return
        surplus = len(self.saved_checkpoints) - self.num_checkpoints_to_keep if self.num_checkpoints_to_keep >= 0 else 0
        for name in self.saved_checkpoints[: max(surplus, 0)]:
            Path(name).unlink(missing_ok=True)
        self.saved_checkpoints = self.saved_checkpoints[max(surplus, 0) :]


def whole_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder, oldest first, the last of them read and found whole.

    Damaged ones that are newer are renamed to `*.damaged`, and the log says so.
    """
    steps = {path: int(match["step"]) for path in folder.iterdir() if (match := _STEP.fullmatch(path.name))}
    paths = sorted(steps, key=steps.__getitem__)
    while paths and not is_whole(paths[-1]):
        damaged = paths.pop()
        aside = damaged.rename(damaged.with_name(damaged.name + ".damaged"))
        log.warning("the checkpoint %s is damaged and passed over; it is now called %s", damaged, aside.name)
    return paths


def is_whole(path: Path) -> bool:
    """Whether a checkpoint is a complete file of torch, whose contents have their checksums."""
    try:
        check_archive(path)
    except ValueError:
        return False
    return True


def _link(folder: Path, checkpoints: list[str]) -> None:
    """Let the link name the last checkpoint, or remove it where there is none."""
    link = folder / _LATEST
    if not checkpoints:
        link.unlink(missing_ok=True)
        return
    new = link.with_name(f"unfinished.{link.name}")
    new.unlink(missing_ok=True)
    new.symlink_to(Path(checkpoints[-1]).name)
    new.replace(link)


def _has_no_room(error: BaseException) -> bool:
    """Whether a disk or quota was full; torch reports it as an error of its writer, with the cause in its context."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return True
        seen = seen.__context__
    return False
