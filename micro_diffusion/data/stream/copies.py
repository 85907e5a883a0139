"""Folders of copies of remote shards: one data set at a time, without what a killed job has left.

The streaming library counts a folder's bytes, removes shards and writes beside them as if nobody else did. Two data
sets would remove each other's shards, decompress into the same temporary file, and fail when the count no longer fits.
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import weakref
from pathlib import Path
from typing import TextIO

from micro_diffusion.data.stream.integrity import shard_names

LOCK = "copies.lock"
log = logging.getLogger(__name__)


def claim(folder: Path, owner: object) -> None:
    """Take a folder of copies, on the first rank of each node, until its owner is gone or this process ends.

    Args:
        folder: which has the index of the remote data.
        owner: the data set.

    Raises:
        OSError: when another data set has it, of this or another process, or the file system has no locks.
    """
    if int(os.environ.get("LOCAL_RANK", 0)) != 0:
        return
    file = (folder / LOCK).open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        holder = file.read() or "a process that does not say which"
        file.close()
        raise BlockingIOError(
            f"{folder} keeps the remote data of another data set ({holder}); wait for that job, or set path to another "
            "folder"
        ) from error
    except OSError as error:
        file.close()
        raise OSError(f"{folder} cannot be locked ({error}); set path to a folder on a disk of this machine") from error
    weakref.finalize(owner, _release, file, os.getpid())
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    _remove_leftovers(folder)


def _release(file: TextIO, process: int) -> None:
    """Let go of a lock, which forked loader workers share: their copy of the data set must not end it."""
    if os.getpid() == process:
        fcntl.flock(file, fcntl.LOCK_UN)
        file.close()


def _remove_leftovers(folder: Path) -> None:
    """Remove the unfinished files of fetching and decompressing, called like a shard and one suffix more."""
    names = shard_names(folder)
    for path in folder.iterdir():
        if path.stem in names and path.name not in names:
            log.info("removed %s, which a killed job has left", path)
            path.unlink()
