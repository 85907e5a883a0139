"""A grid of images with their captions below, as one PNG that explains itself."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from PIL import Image, ImageDraw
from torch import Tensor

from micro_diffusion.sampling.caption_font import CaptionFont

MARK_COLOURS = {True: (20, 140, 60), False: (200, 40, 40), None: (40, 40, 40)}
"""Caption colour of an image that was judged right, judged wrong, or not judged."""

MARK_SIGNS = {True: "[right] ", False: "[wrong] ", None: ""}
"""Said in words too, since red and green look alike to many."""


def to_pil(image: Tensor) -> Image.Image:
    """uint8 (3, H, W) -> RGB image of H × W pixels."""
    return Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy(), mode="RGB")


def from_pil(image: Image.Image) -> Tensor:
    """An image of H × W pixels -> uint8 (3, H, W)."""
    rows = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)
    return rearrange(rows, "(h w c) -> c h w", h=image.height, c=3)


def captioned_grid(
    images: Tensor,
    captions: Sequence[str],
    *,
    columns: int | None = None,
    marks: Sequence[bool | None] | None = None,
    cell_width: int = 160,
    font_size: int = 12,
) -> Image.Image:
    """Images row by row, each with its wrapped caption below.

    Args:
        images: uint8 (N, 3, H, W).
        captions: N texts; cells of one row are as high as its longest caption needs.
        columns: images in a row; by default as square a grid as N allows, at most 8 wide.
        marks: N verdicts (true: right, false: wrong, None: not judged), written before the caption and in its colour.
        cell_width: least width of a cell in pixels; smaller images are enlarged by a whole factor, without smoothing.
        font_size: height of the captions in pixels.

    Raises:
        ValueError: when there are no images, or not as many captions or marks as images.
    """
    marks = [None] * len(captions) if marks is None else marks
    if not len(images) or len(images) != len(captions) or len(images) != len(marks):
        raise ValueError(
            f"a grid of {len(images)} images came with {len(captions)} captions and {len(marks)} marks; "
            "give at least one image, and one caption and mark for each"
        )
    columns = columns or min(8, math.ceil(math.sqrt(len(images))))
    font = CaptionFont(font_size)
    cells = [_enlarged(to_pil(image), cell_width) for image in images]
    width, height = cells[0].size
    said = font.drawable(captions)
    texts = [wrapped(MARK_SIGNS[mark] + caption, font, width) for caption, mark in zip(said, marks, strict=True)]

    gap, line = font_size // 2, math.ceil(font_size * 1.3)
    starts = range(0, len(cells), columns)
    text_heights = [max(len(text) for text in texts[start : start + columns]) * line for start in starts]
    sheet = Image.new(
        "RGB",
        (gap + min(columns, len(cells)) * (width + gap), gap + sum(height + 2 * gap + t for t in text_heights)),
        "white",
    )
    draw = ImageDraw.Draw(sheet)
    top = gap
    for start, text_height in zip(starts, text_heights, strict=True):
        for index in range(start, min(start + columns, len(cells))):
            left = gap + (index - start) * (width + gap)
            sheet.paste(cells[index], (left, top))
            for row, text in enumerate(texts[index]):
                place = (left, top + height + gap // 2 + row * line)
                font.draw(draw, place, text, MARK_COLOURS[marks[index]])
        top += height + text_height + 2 * gap
    return sheet


def wrapped(text: str, font: CaptionFont, width: int) -> list[str]:
    """Text cut into lines of at most `width` pixels, between words, and inside one that is wider than a line."""
    lines = [""]
    for word in text.split():
        candidate = f"{lines[-1]} {word}".lstrip()
        if font.getlength(candidate) <= width:
            lines[-1] = candidate
            continue
        if lines[-1]:
            lines.append("")
        for character in word:
            if lines[-1] and font.getlength(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    return lines


def _enlarged(cell: Image.Image, least_width: int) -> Image.Image:
    factor = math.ceil(least_width / cell.width)
    return cell if factor == 1 else cell.resize((cell.width * factor, cell.height * factor), Image.Resampling.NEAREST)
