"""A folder of images with their captions beside them as a source."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from micro_diffusion.data.sources.archives import IMAGES
from micro_diffusion.data.sources.listed_files import Entry, ListedFiles
from micro_diffusion.files.json_text import parse_json

CAPTION_COLUMNS = ("caption", "text")


@dataclass(frozen=True, kw_only=True)
class ImageFolder(ListedFiles):
    """Images in a folder and the folders below it.

    The captions stand in `metadata.jsonl` (an object a line with `file_name` and `caption` or `text`, a text or a list
    of texts), or in `captions.csv` (the same names as columns), or else in a `.txt` file beside each image, of the
    same stem.

    Args:
        path: the folder.
        captions: of a list, how many are taken, from its first.

    Raises:
        FileNotFoundError: when there is no such folder or it holds no images.
        ValueError: when the list of captions cannot be read, or there are two.
    """

    def list_entries(self, root: Path) -> list[Entry]:
        """What the list of captions names, or else every image in the folder."""
        if not root.is_dir():
            raise FileNotFoundError(f"there is no folder {root}; set source.path to a folder of captioned images")
        lists = [root / name for name in ("metadata.jsonl", "captions.csv") if (root / name).exists()]
        if len(lists) > 1:
            raise ValueError(f"{root} holds both metadata.jsonl and captions.csv; remove the one that is not meant")
        return _read_list(lists[0]) if lists else _find_images(root)


def _find_images(root: Path) -> list[Entry]:
    """All images below a folder in the order of their paths, their captions in text files."""
    paths = (path for path in root.rglob("*") if path.suffix.lower() in IMAGES and path.is_file())
    return [Entry(name, None) for name in sorted(path.relative_to(root).as_posix() for path in paths)]


def _read_list(path: Path) -> list[Entry]:
    """The entries of metadata.jsonl or captions.csv."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix == ".csv":
                rows = list(csv.DictReader(file))
            else:
                rows = [_parse(line, path, number) for number, line in enumerate(file, 1) if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text ({error}); save it in that encoding") from error
    except csv.Error as error:
        raise ValueError(f"{path} is no table ({error}); correct it, or write metadata.jsonl instead") from error
    return [_entry(row, path, number) for number, row in enumerate(rows, 1)]


def _parse(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        row = parse_json(line)
    except ValueError as error:
        raise ValueError(f"line {number} of {path} is no JSON ({error}); correct or remove it") from error
    if not isinstance(row, dict):
        raise ValueError(f"line {number} of {path} is no JSON object; write {{'file_name': ..., 'caption': ...}}")
    return row


def _entry(row: dict[str, Any], path: Path, number: int) -> Entry:
    column = next((name for name in CAPTION_COLUMNS if name in row), None)
    if "file_name" not in row or column is None:
        raise ValueError(f"entry {number} of {path} has {', '.join(map(str, row))}; it needs file_name and caption")
    texts = row[column] if isinstance(row[column], list) else [row[column]]
    return Entry(str(row["file_name"]), tuple(texts))
