"""Shared memory that a killed process has left behind.

The streaming library names its segments by a running number, and fails or misbehaves on ones left over. Its own remedy
also removes those of other jobs that run at this moment; here only abandoned ones of the same data folder go. What
tells them is one more segment, `NNNNNN_owner`, which names the folders and which a job holds locked as long as any of
its processes lives. That a process has mapped a segment tells nothing: to find a free number, the library maps those
of all other jobs, and keeps them.
"""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from streaming.base.shared import SharedMemory
from torch import distributed

log = logging.getLogger(__name__)

SEGMENTS = Path("/dev/shm")
PATIENCE = 60.0
"""Seconds that a job waits for others; a data set takes its number in much less than one, unless a rank hangs."""


@contextmanager
def registration(folders: Sequence[Path]) -> Iterator[Callable[[int], None]]:
    """The time in which a data set takes its number: without abandoned segments, one job of this machine at a time.

    Two jobs that begin together would otherwise take the same number, and one of them would fail.

    Args:
        folders: of the data set.

    Yields:
        What takes the number, to own its segments.

    Raises:
        OSError: when a program that does not ask for this lock has taken the same number.
    """
    first = int(os.environ.get("LOCAL_RANK", 0)) == 0
    with _lock() if first else nullcontext():
        for folder in folders:
            remove_stale_segments(folder)
        try:
            yield lambda number: _own(number, folders) if first else None
        except FileExistsError as error:
            raise OSError(
                f"another program took the shared memory {error.filename} in the same instant; give the same command "
                "again"
            ) from error


@contextmanager
def _lock() -> Iterator[None]:
    """Lock the folder of the segments itself, which is the same for all users.

    The kernel lets go of it at the end of a process, whatever ended that.
    """
    descriptor = os.open(SEGMENTS if SEGMENTS.is_dir() else tempfile.gettempdir(), os.O_RDONLY)
    start = time.monotonic()
    try:
        while not _is_locked(descriptor):
            if time.monotonic() - start > PATIENCE:
                log.warning("another job has not finished its start for %g s; this one does not wait for it", PATIENCE)
                break
            time.sleep(0.02)
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # a process forked meanwhile would hold it on
        os.close(descriptor)


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def remove_stale_segments(data: Path) -> list[str]:
    """Remove the abandoned segments of a data folder, on the first rank of each node; the other ranks wait.

    Args:
        data: the folder.

    Returns:
        The names of the removed segments.
    """
    removed = []
    if int(os.environ.get("LOCAL_RANK", 0)) == 0:
        removed = [segment.name for segment in stale_segments(data) if _remove(segment)]
    if removed:
        log.warning("removed shared memory that a killed process left behind: %s", ", ".join(removed))
    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
    return removed


def stale_segments(data: Path) -> list[Path]:
    """The abandoned segments of a data folder: for this very folder, and their owner, of this user, has ended."""
    owners = SEGMENTS.glob("[0-9]*_owner")
    return [
        segment
        for owner in sorted(owners)
        if _is_abandoned(owner, data)
        for segment in sorted(SEGMENTS.glob(f"{owner.name.removesuffix('owner')}*"))
    ]


def _own(number: int, folders: Sequence[Path]) -> None:
    """Lock the segments of that number until this process and those that it forks have ended, whatever ends them."""
    if not SEGMENTS.is_dir():
        return
    owner = SEGMENTS / f"{number:06}_owner"
    owner.unlink(missing_ok=True)  # the library's remedy leaves it, and frees the number
    named = b"\0".join(os.fsencode(os.path.abspath(folder)) for folder in folders)
    segment = SharedMemory(owner.name, True, len(named))  # removed as the others of this number are
    segment.buf[:] = named
    fcntl.flock(os.open(owner, os.O_RDONLY), fcntl.LOCK_EX)


def _is_abandoned(owner: Path, data: Path) -> bool:
    try:
        descriptor = os.open(owner, os.O_RDONLY)
    except OSError:  # it went away, or is another user's
        return False
    try:
        folders = owner.read_bytes().split(b"\0")
        return os.fsencode(os.path.abspath(data)) in folders and _is_locked(descriptor)
    finally:
        os.close(descriptor)


def _remove(segment: Path) -> bool:
    try:
        segment.unlink()
    except OSError:
        return False
    return True
