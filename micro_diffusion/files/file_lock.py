"""A file that one process at a time holds, and that tells the others who it is."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from pathlib import Path
from typing import TextIO


class NoLocks(OSError):
    """A file system without locks."""


def locked_file(path: Path) -> TextIO:
    """The file, made if need be and held until it is closed or this process ends, in whatever way.

    The lock is of this process alone: workers that it forks, and that outlive it, do not hold it.

    Raises:
        BlockingIOError: when another process holds it; the text is which.
        NoLocks: when the file system has none; the text is its reason.
    """
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            with file:
                file.seek(0)
                if error.errno in (errno.EACCES, errno.EAGAIN):  # systems differ in which
                    raise BlockingIOError(file.read() or "a process that does not say which") from error
            raise NoLocks(str(error)) from error
        if path.exists() and os.fstat(file.fileno()).st_ino == path.stat().st_ino:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
            return file
        file.close()  # its holder removed it between opening and locking
