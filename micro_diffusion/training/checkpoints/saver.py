"""Writes checkpoints for resuming, such that one is whole or not there whenever the process or the machine stops."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from composer import Event, Logger, State, Time, TimeUnit
from composer.callbacks import CheckpointSaver
from composer.utils import create_interval_scheduler, dist

from micro_diffusion.files.whole_file import has_no_room
from micro_diffusion.training.checkpoints.files import (
    LATEST,
    point_to,
    remove,
    write_file,
    write_shares,
)
from micro_diffusion.training.checkpoints.remote import RemoteCheckpoints

log = logging.getLogger(__name__)


class WholeCheckpointSaver(CheckpointSaver):
    """Composer's saver, safe against being killed.

    Composer 0.32 writes under the final name, and removes the link to the last checkpoint before it makes the new one:
    a kill leaves half a file, or a run that begins again. Here a checkpoint is written aside, synced and renamed, the
    link is replaced in one step, and only then do older checkpoints go. Copies for a remote folder are made while
    training goes on. One that fails is a line in the log, since the next may not; of the last one, it is an error.

    Args:
        folder: for the checkpoints.
        there: those that are in it, oldest first, the last of which is whole; it is resumed from.
        interval: between them, as a Composer time such as `1000ba`; another one is written at the end of training.
        keep: how many of the newest stay; -1 keeps all.
        is_urgent: asked after every step for a reason to write one now.
        remote: where they are copied to.
    """

    def __init__(
        self,
        *,
        folder: str,
        there: Sequence[Path],
        interval: str,
        keep: int,
        is_urgent: Callable[[], bool],
        remote: RemoteCheckpoints | None = None,
    ) -> None:
        is_due = create_interval_scheduler(interval)

        def is_due_or_urgent(state: State, event: Event) -> bool:
            return is_due(state, event) or is_urgent()

        super().__init__(
            folder=folder, remote_file_name=None, save_interval=is_due_or_urgent, num_checkpoints_to_keep=keep
        )
        self._kept = list(there)
        self._is_urgent = is_urgent
        self._remote = remote

    def init(self, state: State, logger: Logger) -> None:
        """Point the link from which Composer resumes to the newest checkpoint, on the first rank.

        Raises:
            ValueError: when that is a file for a run that writes shares, or the other way round.
        """
        super().init(state, logger)
        folder = Path(self.folder)
        if dist.get_global_rank() == 0:
            point_to(self._kept[-1] if self._kept else None, folder)
            if self._remote is not None and self._kept and not self._remote.has(self._kept[-1]):
                self._remote.copy(self._kept[-1])  # it was killed before the copy was made
        dist.barrier()
        sharded = state.fsdp_config is not None and state.fsdp_config.state_dict_type == "sharded"
        if (folder / LATEST).exists() and (folder / LATEST).is_dir() != sharded:
            theirs, ours = ("whole", "sharded") if sharded else ("sharded", "whole")
            raise ValueError(
                f"the checkpoint {(folder / LATEST).resolve()} is {theirs}, but this run writes and reads {ours} ones; "
                f"go on with parallelism=fsdp parallelism.fsdp.checkpoints={theirs}, or choose another exp_name"
            )

    def _save_checkpoint(self, state: State, logger: Logger) -> None:
        self.last_checkpoint_batch = state.timestamp.batch
        path = Path(self.filename.format(state))
        if state.fsdp_sharded_state_dict_enabled:
            path = path.with_name(path.name.partition("-rank")[0])
        self._report_copy()  # before what is copied may go
        with _lack_of_room_named(path):
            (write_shares if state.fsdp_sharded_state_dict_enabled else write_file)(state, path)
        if dist.get_global_rank():
            return
        self._kept = [*(kept for kept in self._kept if kept != path), path]
        point_to(path, path.parent)
        surplus = len(self._kept) - self.num_checkpoints_to_keep if self.num_checkpoints_to_keep >= 0 else 0
        for old in self._kept[: max(surplus, 0)]:
            remove(old)
        self._kept = self._kept[max(surplus, 0) :]
        if self._remote is not None:
            self._remote.begin_copy(path)
            if self._is_urgent():
                self._report_copy()

    def fit_end(self, state: State, logger: Logger) -> None:
        """Wait for the copy of the last checkpoint.

        Raises:
            OSError: when it failed.
        """
        if self._remote is not None and (failure := self._remote.failure()):
            raise failure

    def _report_copy(self) -> None:
        if self._remote is not None and (failure := self._remote.failure()):
            log.warning("%s", failure)


def checkpoints_left(*, keep: int, interval: str | int, end: str | int) -> int | None:
    """How many a run leaves: `keep`, or with -1 all; None where its length is in other units than their interval."""
    every, whole = (Time.from_input(time, TimeUnit.EPOCH) for time in (interval, end))
    if keep >= 0:
        return keep
    if every.unit == TimeUnit.DURATION:
        return math.ceil(1 / every.value)
    return math.ceil(whole.value / every.value) if every.unit == whole.unit else None


@contextmanager
def _lack_of_room_named(path: Path) -> Iterator[None]:
    """Say in one sentence that a disk or quota was full, on whichever rank."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if not has_no_room(error):
            raise
        link = path.with_name(LATEST)
        before = f"{link.resolve()} is whole" if link.exists() else "there is none before it"
        raise OSError(
            f"there is no room to write the checkpoint {path}; {before}; make room and give the same command again"
        ) from error
