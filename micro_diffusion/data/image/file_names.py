"""What the name of a file says: an image, an image of a kind that is not read, or neither."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

IMAGES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".mpo"}
)
"""Suffixes of images that are read."""

UNREAD_IMAGES = frozenset({".heic", ".heif", ".jxl", ".jp2", ".svg", ".psd", ".dng", ".cr2", ".nef", ".arw", ".raw"})
"""Suffixes of images that are not read; they are counted, so that nobody looks for them in vain."""


def suffix(name: str) -> str:
    """Ending of a name in lower case, such as ".jpg"."""
    return PurePosixPath(name).suffix.lower()


def is_leftover(name: str) -> bool:
    """Whether macOS wrote the file beside another one, whose name it has: no image, whatever it is called."""
    path = PurePosixPath(name)
    return path.name.startswith("._") or "__MACOSX" in path.parts


def kind(name: str) -> Literal["image", "unread image"] | None:
    """What a file is by its name; None for anything but an image."""
    if is_leftover(name):
        return None
    ending = suffix(name)
    return "image" if ending in IMAGES else "unread image" if ending in UNREAD_IMAGES else None


def files_below(folder: Path) -> Iterator[Path]:
    """All files in a folder and the folders below it, linked ones included; a link to a folder above ends there."""
    for place, folders, files in os.walk(folder, followlinks=True):
        above = {os.path.realpath(folder), *(os.path.realpath(path) for path in _between(folder, place))}
        folders[:] = [name for name in folders if os.path.realpath(os.path.join(place, name)) not in above]
        yield from (Path(place, name) for name in files)


def _between(folder: Path, place: str) -> Iterator[Path]:
    """The folders from `folder` down to `place`, that one included."""
    path = folder
    for part in Path(place).relative_to(folder).parts:
        path = path / part
        yield path
