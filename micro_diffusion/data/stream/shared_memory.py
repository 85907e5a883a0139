"""Shared memory that a killed process has left behind.

The streaming library names its segments by a running number, and fails or misbehaves on ones left over. Its own remedy
also removes those of other jobs that run at this moment; here only abandoned ones of the same data folder go.
"""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from torch import distributed

log = logging.getLogger(__name__)

SEGMENTS = Path("/dev/shm")
PATIENCE = 60.0
"""Seconds that a job waits for others; a data set takes its number in much less than one, unless a rank hangs."""


@contextmanager
def registration(folders: Sequence[Path]) -> Iterator[None]:
    """The time in which a data set takes its number: without abandoned segments, one job of this machine at a time.

    Two jobs that begin together would otherwise take the same number, and one of them would fail.

    Args:
        folders: of the data set.

    Raises:
        OSError: when a program that does not ask for this lock has taken the same number.
    """
    first = int(os.environ.get("LOCAL_RANK", 0)) == 0
    with _lock() if first else nullcontext():
        for folder in folders:
            remove_stale_segments(folder)
        try:
            yield
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
    """The abandoned segments of a data folder: of this user, for this very folder, mapped by no running process."""
    if not SEGMENTS.is_dir():
        return []
    stale, mapped = [], _mapped_segments()
    for locals_segment in sorted(SEGMENTS.glob("[0-9]*_locals")):
        family = sorted(SEGMENTS.glob(f"{locals_segment.name.removesuffix('locals')}*"))
        if _names(locals_segment, data) and not any(segment.name in mapped for segment in family):
            stale += family
    return stale


def _names(segment: Path, data: Path) -> bool:
    """Whether a segment of this user lists the folder: 4 bytes, then folders and a number, split by NUL."""
    try:
        if segment.stat().st_uid != os.getuid():
            return False
        content = segment.read_bytes()
    except OSError:  # it went away, or is not ours to read
        return False
    folders = content[4:].split(b"\0")[:-1]
    return os.fsencode(os.path.abspath(data)) in folders


def _mapped_segments() -> set[str]:
    """Names of the segments that processes have mapped, as far as this user may see."""
    names = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            lines = maps.read_text(errors="replace").splitlines()
        except OSError:  # ended meanwhile, or another user's
            continue
        names.update(Path(line.split(maxsplit=5)[5]).name for line in lines if f"{SEGMENTS}/" in line)
    return names


def _remove(segment: Path) -> bool:
    try:
        segment.unlink()
    except OSError:
        return False
    return True
