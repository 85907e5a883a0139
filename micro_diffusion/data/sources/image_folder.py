"""A folder of pictures with their captions beside them as a source."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from micro_diffusion.data.sources.source import CaptionedImage, Rejected

PART = 32
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
CAPTION_COLUMNS = ("caption", "text")


class Entry(NamedTuple):
    """A picture's path within the folder and its caption; None when that is in a text file beside the picture."""

    name: str
    caption: str | None


@dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """Pictures in a folder and the folders below it.

    The captions stand in `metadata.jsonl` (an object a line with `file_name` and `caption` or `text`), or in
    `captions.csv` (the same names as columns), or else in a `.txt` file beside each picture, of the same stem.

    Args:
        path: the folder.

    Raises:
        FileNotFoundError: when there is no such folder or it holds no pictures.
        ValueError: when the list of captions cannot be read, or there are two.
    """

    path: str

    def __post_init__(self) -> None:
        if not self._entries:
            raise FileNotFoundError(f"{self.path} names no pictures; set source.path to a folder of captioned pictures")

    @cached_property
    def _entries(self) -> list[Entry]:
        root = Path(self.path).expanduser()
        if not root.is_dir():
            raise FileNotFoundError(f"there is no folder {root}; set source.path to a folder of captioned pictures")
        lists = [root / name for name in ("metadata.jsonl", "captions.csv") if (root / name).exists()]
        if len(lists) > 1:
            raise ValueError(f"{root} holds both metadata.jsonl and captions.csv; remove the one that is not meant")
        return _read_list(lists[0]) if lists else _find_pictures(root)

    def __getstate__(self) -> dict[str, str]:
        return {"path": self.path}  # reading a part needs no more, so the entries stay where they are

    def __len__(self) -> int:
        return len(self._entries)

    def parts(self) -> Sequence[Sequence[Entry]]:
        """Runs of entries."""
        return [self._entries[start : start + PART] for start in range(0, len(self), PART)]

    def read(self, part: Sequence[Entry]) -> Iterator[CaptionedImage | Rejected]:
        """Read the files of some entries."""
        for entry in part:
            picture = Path(self.path).expanduser() / entry.name
            text = picture.with_suffix(".txt")
            if not picture.is_file():
                yield Rejected(entry.name, "no such picture")
            elif entry.caption is None and not text.is_file():
                yield Rejected(entry.name, "no caption")
            else:
                caption = text.read_text(encoding="utf-8", errors="replace") if entry.caption is None else entry.caption
                yield CaptionedImage(picture.read_bytes(), caption, entry.name)


def _find_pictures(root: Path) -> list[Entry]:
    """All pictures below a folder in the order of their paths, their captions in text files."""
    paths = (path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return [Entry(name, None) for name in sorted(path.relative_to(root).as_posix() for path in paths)]


def _read_list(path: Path) -> list[Entry]:
    """The entries of metadata.jsonl or captions.csv."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        if path.suffix == ".csv":
            rows = list(csv.DictReader(file))
        else:
            rows = [_parse(line, path, number) for number, line in enumerate(file, 1) if line.strip()]
    return [_entry(row, path, number) for number, row in enumerate(rows, 1)]


def _parse(line: str, path: Path, number: int) -> dict[str, str]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {number} of {path} is no JSON ({error}); correct or remove it") from error
    if not isinstance(row, dict):
        raise ValueError(f"line {number} of {path} is no JSON object; write {{'file_name': ..., 'caption': ...}}")
    return row


def _entry(row: dict[str, str], path: Path, number: int) -> Entry:
    column = next((name for name in CAPTION_COLUMNS if name in row), None)
    if "file_name" not in row or column is None:
        raise ValueError(f"entry {number} of {path} has {', '.join(map(str, row))}; it needs file_name and caption")
    return Entry(str(row["file_name"]), str(row[column] or ""))
