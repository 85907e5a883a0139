"""Opens the content of an image file; whatever is wrong with it is one kind of error."""

from __future__ import annotations

import io
from typing import NamedTuple

from PIL import Image, PngImagePlugin

from micro_diffusion.data.image.transforms import to_rgb

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "MPO")
"""Formats that are decoded; Pillow knows others, some of which start programs, such as Ghostscript for PostScript."""

MOST_PIXELS = 2**27
"""Of an image, 11,585 by 11,585 for a square one; a file of a few bytes may claim any number."""


PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 64 * 2**20
"""Bytes of text in a PNG; programs that generate images write their whole workflow there, more than Pillow allows."""


class UnreadableImage(ValueError):
    """The content of a file is no image that can be used."""


class OpenedImage(NamedTuple):
    """A decoded image. rgb: upright, 8 bits a channel. format, size: of the file, (width, height) before turning."""

    rgb: Image.Image
    format: str
    size: tuple[int, int]


def read_image(content: bytes) -> OpenedImage:
    """Decode the content of an image file.

    Raises:
        UnreadableImage: when it is damaged, of another format, or has more than MOST_PIXELS pixels.
    """
    try:
        opened = Image.open(io.BytesIO(content), formats=FORMATS)
        if opened.width * opened.height > MOST_PIXELS:
            raise ValueError(f"{opened.width} by {opened.height} pixels are more than {MOST_PIXELS:,}")
        return OpenedImage(to_rgb(opened), opened.format or "", opened.size)
    except Exception as error:  # a damaged file leads Pillow to raise almost anything
        raise UnreadableImage(f"no readable image ({error})") from error
