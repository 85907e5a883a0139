"""Opens the content of a picture file; whatever is wrong with it is one kind of error."""

from __future__ import annotations

import io
from typing import NamedTuple

from PIL import Image

from micro_diffusion.data.image.transforms import to_rgb

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
"""Formats that are decoded; Pillow knows others, some of which start programs, such as Ghostscript for PostScript."""

MOST_PIXELS = 2**27
"""Of a picture, 11,585 by 11,585 for a square one; a file of a few bytes may claim any number."""


class UnreadablePicture(ValueError):
    """The content of a file is no picture that can be used."""


class Picture(NamedTuple):
    """A decoded picture. rgb: upright, 8 bits a channel. format, size: of the file, (width, height) before turning."""

    rgb: Image.Image
    format: str
    size: tuple[int, int]


def read_picture(content: bytes) -> Picture:
    """Decode the content of a picture file.

    Raises:
        UnreadablePicture: when it is damaged, of another format, or has more than MOST_PIXELS pixels.
    """
    try:
        opened = Image.open(io.BytesIO(content), formats=FORMATS)
        if opened.width * opened.height > MOST_PIXELS:
            raise ValueError(f"{opened.width} by {opened.height} pixels are more than {MOST_PIXELS:,}")
        return Picture(to_rgb(opened), opened.format or "", opened.size)
    except Exception as error:  # a damaged file leads Pillow to raise almost anything
        raise UnreadablePicture(f"no readable picture ({error})") from error
