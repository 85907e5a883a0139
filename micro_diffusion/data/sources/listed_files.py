"""Image files that a list names, relative to a folder."""

from __future__ import annotations

import errno
import os
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from micro_diffusion.bounds import PositiveInt
from micro_diffusion.data.sources.source import CaptionedImage, Rejected, captioned, check_captions, text_of
from micro_diffusion.files.json_text import parse_json

PART = 32
UNREADABLE = (errno.EACCES, errno.EPERM, errno.EIO, errno.ELOOP)
"""Of one file, which is left out; other errors of the system, such as of a network, end a conversion."""


class Entry(NamedTuple):
    """An image's path within the folder and its captions, as the list has them: texts, if it is in order.

    None when they are in a text file beside the image. rejected: why the image cannot be used, where that is known.
    """

    name: str
    captions: tuple[Any, ...] | None
    rejected: str = ""


@dataclass(frozen=True, kw_only=True)
class ListedFiles(ABC):
    """A source of image files; what it derives from lists them.

    Args:
        path: a folder.
        captions: of an image that has several, how many are taken, from the first.
    """

    path: str
    captions: PositiveInt = 1

    @abstractmethod
    def list_entries(self, root: Path) -> list[Entry]:
        """All images, in the order of the data set. root: `path` as a path."""

    def images(self, root: Path) -> Path:
        """The folder that the names of the entries are relative to."""
        return root

    def instead_of_text(self, name: str) -> tuple[str, ...]:
        """The caption of an image that no list and no text file has one for; none at all leaves the image out."""
        return ()

    def __post_init__(self) -> None:
        check_captions(self.captions)
        if not self._entries:
            raise FileNotFoundError(f"{self.path} names no images; set source.path to a folder of captioned images")
        most = max(1, *(len(entry.captions or ()) for entry in self._entries))  # none are listed: one in a text file
        if self.captions > most:
            raise ValueError(
                f"captions is {self.captions}, but no image of {self.path} has more than {most}; set source.captions "
                "to at most that"
            )

    @cached_property
    def _entries(self) -> list[Entry]:
        return self.list_entries(Path(self.path).expanduser())

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # a part holds its entries

    def __len__(self) -> int:
        return len(self._entries)

    def parts(self) -> Sequence[Sequence[Entry]]:
        """Runs of entries."""
        return [self._entries[start : start + PART] for start in range(0, len(self), PART)]

    def read(self, part: Sequence[Entry]) -> Iterator[CaptionedImage | Rejected]:
        """The images of some entries, with their names as keys."""
        root = self.images(Path(self.path).expanduser())
        for name, captions, rejected in part:
            key = name.encode(errors="replace").decode()  # a name on disk need not be UTF-8
            image = rejected or read_file(root, name)
            if isinstance(image, str):
                yield Rejected(key, image)
            else:
                try:
                    texts = (_beside(root / name) or self.instead_of_text(name)) if captions is None else captions
                except OSError as error:
                    if error.errno not in UNREADABLE:
                        raise
                    yield Rejected(key, f"caption cannot be read ({os.strerror(error.errno or 0).lower()})")
                    continue
                yield captioned(image, key, texts, count=self.captions)

    def files_of(self, part: Sequence[Entry]) -> Iterable[Path]:
        """The images of some entries, and the captions beside them; what a list says of them is in the entries."""
        root = self.images(Path(self.path).expanduser())
        for name, captions, _ in part:
            yield root / name
            if captions is None and (text := text_beside(root / name)):
                yield text


CAPTION_FILES = (".txt", ".TXT", ".caption", ".CAPTION")
"""Suffixes of a text file beside an image that holds its caption; the first that is there counts."""


def _beside(image: Path) -> tuple[str, ...]:
    """The caption in the text file beside an image."""
    text = text_beside(image)
    return () if text is None else (text_of(text.read_bytes()),)


def text_beside(image: Path) -> Path | None:
    """The text file beside an image."""
    texts = (image.with_suffix(suffix) for suffix in CAPTION_FILES)
    return next((text for text in texts if text.is_file()), None)


def read_file(root: Path, name: str) -> bytes | str:
    """The content of a file below a folder, or why there is none.

    A name with accents is found in either form that Unicode has for them; lists and disks of macOS differ in it.
    """
    if not Path(os.path.abspath(root / name)).is_relative_to(os.path.abspath(root)):
        return "path leads out of the folder"
    try:
        return (root / name).read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError):  # the last for a NUL in the name
        forms = {unicodedata.normalize(form, name) for form in ("NFC", "NFD")} - {name}
        other = next((root / form for form in sorted(forms) if (root / form).is_file()), None)
        return other.read_bytes() if other else "no such image"
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return "no such image"
        if error.errno in UNREADABLE:
            return f"file cannot be read ({os.strerror(error.errno).lower()})"
        raise


def read_json(path: Path, *, layout: str) -> Any:
    """The content of a JSON file.

    Raises:
        FileNotFoundError: when it is not there; `layout` says what should be, and what gets it.
        ValueError: when it is no JSON.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; {layout}")
    try:
        return parse_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); get this file again") from error
