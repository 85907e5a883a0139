"""Images as files that say what they show: PNG carries prompt and settings along."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from micro_diffusion.files.outputs import check_output_file, make_folder

__all__ = ["FORMATS", "TEXT_ENTRY", "check_image_file", "free_path", "make_folder", "save_image"]

TEXT_ENTRY = "micro_diffusion"
"""Of a PNG, for the JSON that says how it was made."""

FORMATS = (".png", ".jpg", ".jpeg", ".webp")


def check_image_file(path: Path) -> None:
    """Find out before an hour of generating that its result cannot be written.

    Raises:
        ValueError: when the ending is none of FORMATS.
        OSError: when the file cannot be written, in a sentence that says why.
    """
    if path.suffix.lower() not in FORMATS:
        raise ValueError(
            f"{path} ends in {path.suffix!r}, which is no image; use one of {', '.join(FORMATS)}, or end the name of a "
            "folder in /"
        )
    check_output_file(path)


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
