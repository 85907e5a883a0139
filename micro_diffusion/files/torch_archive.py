"""Files of torch.save: whether one is whole, found out before it is read, and the weights in it."""

from __future__ import annotations

import errno
import zipfile
from pathlib import Path
from typing import IO, Any

import torch


def check_archive(path: Path, part: IO[bytes] | None = None) -> None:
    """Compare the members of the zip archive that torch.save writes with their checksums.

    Args:
        path: the file.
        part: what to look at instead of the whole file, where it holds several archives.

    Raises:
        FileNotFoundError: when there is no such file.
        OSError: when it cannot be read, which says nothing about what is in it.
        ValueError: when it is cut short, damaged, or no such archive.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; give one that torch.save has written")
    try:
        with zipfile.ZipFile(part or path) as archive:
            packed = [info.filename for info in archive.infolist() if info.compress_type != zipfile.ZIP_STORED]
            damaged = packed[0] if packed else archive.testzip()  # torch compresses nothing, but a bomb does
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: a place before the start
            raise
        raise ValueError(f"{path} is no whole file of torch.save ({error}); copy it again, or give another") from error
    if damaged is not None:
        raise ValueError(f"{path} is damaged in {damaged}; copy it again, or give another")


def read_weights(path: Path) -> Any:
    """What somebody else's file of torch.save holds, mapped into memory; code in it is not run.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is damaged, or holds more than tensors and plain containers.
    """
    check_archive(path)  # reading by memory map compares no checksums
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{path} cannot be read as a file of weights alone ({reason}); download it again") from error
