"""Files that are whole or not there, whenever the process or the machine stops."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Where to write what shall become the file `path`: beside it, synced to the disk and renamed when all went well.

    Until then `path` is what it was before. An exception removes what was written; a kill leaves it under its other
    name, where the next writing replaces it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"unfinished.{path.name}")  # writers may read a format from the suffix
    try:
        yield unfinished
        sync(unfinished)
        unfinished.replace(path)
        sync(path.parent)  # the new name is an entry of the folder
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """The same for a folder that is not there yet: made empty, and renamed when all went well.

    Raises:
        FileExistsError: when `path` is there.
    """
    if path.exists():
        raise FileExistsError(f"{path} is there already; remove it, or choose another folder")
    unfinished = path.with_name(f"unfinished.{path.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    yield unfinished
    unfinished.rename(path)


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_OF_RUST = re.compile(r"\(os error (?P<number>\d+)\)")
"""How libraries in Rust, such as safetensors, repeat an error of the system in one of their own."""


def has_no_room(error: BaseException) -> bool:
    """Whether a disk or quota was full; torch reports it as an error of its writer, with the cause in its context."""
    seen: BaseException | None = error
    while seen is not None:
        told = _OF_RUST.search(str(seen))
        if (isinstance(seen, OSError) and seen.errno in _FULL) or (told and int(told["number"]) in _FULL):
            return True
        seen = seen.__context__
    return False


def concerns_disk(error: BaseException) -> bool:
    """Whether a file of this machine is the trouble, rather than the network or what came from it."""
    return has_no_room(error) or (isinstance(error, OSError) and error.filename is not None)
