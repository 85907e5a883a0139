"""Images as files that say what they show: PNG carries prompt and settings along."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

TEXT_ENTRY = "micro_diffusion"
"""Of a PNG, for the JSON that says how it was made."""

FORMATS = (".png", ".jpg", ".jpeg", ".webp")


def check_image_file(path: Path) -> None:
    """Find out before an hour of generating that its result cannot be written.

    Raises:
        ValueError: when the ending is none of FORMATS.
        NotADirectoryError: when a parent of the file is a file.
    """
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{path} ends in {path.suffix!r}, which is no image; use one of {', '.join(FORMATS)}")
    make_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents; a NotADirectoryError names the file that stands in the way."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(f"{folder} cannot be a folder, because a file stands there; choose another") from error


def save_image(image: Image.Image, path: Path, description: Mapping[str, Any]) -> None:
    """Write the image; its description becomes JSON in the PNG text entry `TEXT_ENTRY`.

    The bytes follow from image and description alone.
    """
    if path.suffix.lower() == ".png":
        text = PngImagePlugin.PngInfo()
        text.add_itxt(TEXT_ENTRY, json.dumps(dict(description), ensure_ascii=False))
        image.save(path, pnginfo=text)
    else:
        image.save(path, quality=95)


def free_path(path: Path) -> Path:
    """The path itself while nothing is there, else the first of `name-1`, `name-2`, … that is free."""
    candidates = itertools.chain([path], (path.with_stem(f"{path.stem}-{i}") for i in itertools.count(1)))
    return next(candidate for candidate in candidates if not candidate.exists())
