"""Cells of a table as images and captions, in the forms that the hub's data sets have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from micro_diffusion.data.sources.listed_files import read_file
from micro_diffusion.data.sources.source import CaptionedImage, Rejected, captioned, named_class

NO_CLASS = "no class of that number"


def read_cells(
    image: Any,
    captions: Sequence[Any],
    key: str,
    *,
    root: Path,
    count: int,
    names: Sequence[Sequence[str] | None],
) -> CaptionedImage | Rejected:
    """A row of a table.

    Args:
        image: bytes; or a path relative to `root`; or {"bytes": ..., "path": ...}, of which one may be None.
        captions: cells of captions, each a text, a class's number, a list of these, or None.
        key: of the image.
        root: folder of images that are given as paths.
        count: of the captions of a cell that are taken.
        names: of the classes in each cell of captions, in the order of their numbers; None where it has texts.
    """
    content, path = (image.get("bytes"), image.get("path")) if isinstance(image, Mapping) else (image, image)
    if isinstance(content, str) or content is None:
        content = read_file(root, path) if isinstance(path, str) else "no such image"
    if isinstance(content, str):
        return Rejected(key, content)
    if not isinstance(content, bytes | bytearray):
        return Rejected(key, "no image in the cell")
    try:
        texts = [named_class(cell, classes) for cell, classes in zip(captions, names, strict=True)]
    except LookupError:
        return Rejected(key, NO_CLASS)
    return captioned(bytes(content), key, *texts, count=count)
