"""A folder of images with their captions beside them as a source."""

from __future__ import annotations

import csv
import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from micro_diffusion.data.image.file_names import files_below, kind, suffix
from micro_diffusion.data.sources.listed_files import Entry, ListedFiles, read_file, text_beside
from micro_diffusion.files.json_text import parse_json

CAPTION_COLUMNS = ("caption", "text")
WITHOUT_CAPTION = "an image"
"""Of an image about which nothing is said; data without any caption are refused, since that is mostly a mistake."""


@dataclass(frozen=True, kw_only=True)
class ImageFolder(ListedFiles):
    """Images in a folder and the folders below it.

    The captions stand in `metadata.jsonl` (an object a line with `file_name` and `caption` or `text`, a text or a list
    of texts), or in `metadata.csv` or `captions.csv` (the same names as columns), of any folder, for the images in it
    and below; or else in a `.txt` or `.caption` file beside each image, of the same stem. Linked folders are followed.
    An image that a list leaves out, or of a format that is not read, is rejected.

    Args:
        path: the folder.
        captions: of a list, how many are taken, from its first.
        without_text: what becomes of an image without a caption: "reject", or a caption from its "name" (in words, so
            that media-playback_start.png says "media playback start") or the name of its "folder"; or "nothing", for
            runs without captions.
        copies: whether files of the same content are all kept, or "reject" those after the first, of which a training
            would see more, and a validation set would hold some.

    Raises:
        FileNotFoundError: when there is no such folder or it holds no images.
        ValueError: when the list of captions cannot be read, or there are two.
    """

    without_text: Literal["reject", "name", "folder", "nothing"] = "reject"
    copies: Literal["keep", "reject"] = "keep"

    def instead_of_text(self, name: str) -> tuple[str, ...]:
        """A caption from the name of the image or of its folder, or one that no network reads."""
        path = PurePosixPath(name)
        if self.without_text == "nothing":
            return (WITHOUT_CAPTION,)
        if self.without_text == "folder" and path.parent.name:
            return (words(path.parent.name),)
        return (words(path.stem),) if self.without_text == "name" else ()

    def list_entries(self, root: Path) -> list[Entry]:
        """What the lists of captions name, then the other images in the order of their paths."""
        if not root.is_dir():
            raise FileNotFoundError(f"there is no folder {root}; set source.path to a folder of captioned images")
        files = {path.relative_to(root).as_posix(): path for path in files_below(root)}
        lists = _lists(files.values())
        listed = [
            entry._replace(name=(folder.relative_to(root) / entry.name).as_posix())
            for folder, path in lists.items()
            for entry in _read_list(path)
        ]
        named = {_same_form(entry.name) for entry in listed}
        others = (name for name in sorted(files) if kind(name) and _same_form(name) not in named)
        entries = [*listed, *(_unlisted(name, files[name], lists) for name in others)]
        return entries if self.copies == "keep" else _without_copies(entries, root)


def words(name: str) -> str:
    """The words of a file's name: apart at signs, at digits and at capital letters."""
    return " ".join(re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-zß-ÿ])(?=[A-ZÀ-Þ])", " ", name))).lower()


LISTS = ("metadata.jsonl", "metadata.csv", "captions.csv")


def _lists(files: Iterable[Path]) -> dict[Path, Path]:
    """The list of captions of each folder that has one, in the order of the folders."""
    found: dict[Path, Path] = {}
    for path in sorted(path for path in files if path.name in LISTS):
        if path.parent in found:
            raise ValueError(
                f"{path.parent} holds both {found[path.parent].name} and {path.name}; remove the one that is not meant"
            )
        found[path.parent] = path
    return found


def _unlisted(name: str, path: Path, lists: Mapping[Path, Path]) -> Entry:
    """An image that no list names: its caption is beside it, unless a list of its folder or one above leaves it out."""
    if kind(name) == "unread image":
        return Entry(name, (), f"{suffix(name)} files are not read; convert them to JPEG or PNG")
    if any(folder in lists for folder in path.parents):
        return Entry(name, (), "not in the list of captions")
    return Entry(name, None)


def _without_copies(entries: Sequence[Entry], root: Path) -> list[Entry]:
    """Entries of which those are rejected whose file has the content of another's, if possible of one with a text."""
    sizes = [None if entry.rejected else _size(root / entry.name) for entry in entries]
    counts, seen, kept = Counter(sizes), set(), list(entries)
    said = [entry.captions is not None or text_beside(root / entry.name) is not None for entry in entries]
    for i in sorted(range(len(entries)), key=lambda i: not said[i]):
        if sizes[i] is None or counts[sizes[i]] == 1:  # there is none, or it is alone and need not be read
            continue
        image = read_file(root, entries[i].name)
        if isinstance(image, str):  # which `read` says of it
            continue
        content = hashlib.sha256(image).digest()
        if content in seen:
            kept[i] = entries[i]._replace(rejected="a copy of another image")
        seen.add(content)
    return kept


def _size(path: Path) -> int | None:
    """Bytes of a file that can be looked at."""
    try:
        return path.stat().st_size
    except (OSError, ValueError):  # the last for a NUL in the name
        return None


def _same_form(name: str) -> str:
    """A name that is the same for both forms which Unicode has for accents, and for `./a.png` and `a.png`."""
    return os.path.normpath(unicodedata.normalize("NFC", name))


def _read_list(path: Path) -> list[Entry]:
    """The entries of a list of captions."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix == ".csv":
                rows = list(csv.DictReader(file, strict=True))
            else:
                rows = [_parse(line, path, number) for number, line in enumerate(file, 1) if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text ({error}); save it in that encoding") from error
    except csv.Error as error:
        raise ValueError(
            f"{path} is no table ({error}); close every quote, double those within a caption, or write metadata.jsonl "
            "instead"
        ) from error
    if not rows:
        raise ValueError(f"{path} names no images; write an entry for each image, or remove it")
    return [_entry(row, path, number) for number, row in enumerate(rows, 1)]


def _parse(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        row = parse_json(line)
    except ValueError as error:
        raise ValueError(f"line {number} of {path} is no JSON ({error}); correct or remove it") from error
    if not isinstance(row, dict):
        raise ValueError(f"line {number} of {path} is no JSON object; write {{'file_name': ..., 'caption': ...}}")
    return row


def _entry(row: dict[Any, Any], path: Path, number: int) -> Entry:
    if None in row:  # what csv calls the cells beyond the header's
        raise ValueError(
            f"entry {number} of {path} has more cells than the header, the last {row[None][-1]!r}; put captions with "
            "commas into double quotes"
        )
    if any(cell is None for cell in row.values()) and path.suffix == ".csv":
        raise ValueError(f"entry {number} of {path} has fewer cells than the header; complete or remove it")
    column = next((name for name in CAPTION_COLUMNS if name in row), None)
    if "file_name" not in row or column is None:
        raise ValueError(f"entry {number} of {path} has {', '.join(map(str, row))}; it needs file_name and caption")
    texts = row[column] if isinstance(row[column], list) else [row[column]]
    return Entry(str(row["file_name"]), tuple(texts))
