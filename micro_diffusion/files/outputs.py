"""Where results go, looked at before the work: what cannot be written, or would be overwritten, is an error at once."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path


def named_folder(path: Path) -> Path:
    """A folder by a path that ends in its name, where `.` or `..` stands for it."""
    path = path.expanduser()
    return path.resolve() if path.name in ("", "..") else path


def check_output_file(path: Path, *, endings: Sequence[str] = (), content: str = "") -> None:
    """Make the folder of a file to be written later, and see whether it can be.

    Args:
        path: the file; one that is there stays what it is.
        endings: that it may have, such as ".json"; none allows any.
        content: what it will hold, such as "the scores", for the error about its ending.

    Raises:
        ValueError: when it has none of the endings.
        NotADirectoryError, IsADirectoryError, PermissionError: when it cannot be written, in a sentence that says why.
    """
    if endings and path.suffix.lower() not in endings:
        raise ValueError(
            f"{path} ends in {path.suffix!r}, but {content or 'the result'} has the ending {' or '.join(endings)}; "
            "name such a file"
        )
    make_folder(path.parent)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, but a file is wanted there; name a file in it")
    if path.exists():
        if not os.access(path, os.W_OK):
            raise PermissionError(f"{path} may not be overwritten; change its permissions, or name another file")
        return
    check_writable(path.parent)


def check_writable(folder: Path) -> None:
    """Write a file into a folder and remove it.

    Raises:
        PermissionError: when that cannot be done; full disks show later, as their room does.
    """
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".writable"):
            pass
    except OSError as error:
        raise PermissionError(
            f"{folder} cannot be written to ({error.strerror}); change its permissions, or name another folder"
        ) from error


def make_folder(folder: Path) -> None:
    """Make a folder and its parents.

    Raises:
        NotADirectoryError: naming it, when a file stands in the way.
        PermissionError: when it may not be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(f"{folder} cannot be a folder, because a file stands there; choose another") from error
    except OSError as error:
        raise PermissionError(f"{folder} cannot be made ({error.strerror}); choose another folder") from error


def check_different(first: Path, second: Path, *, first_holds: str, second_holds: str) -> None:
    """Raise ValueError when two results would go into one file."""
    if first.absolute() == second.absolute():
        raise ValueError(f"{first} would hold {first_holds} and then {second_holds}; name two files")
