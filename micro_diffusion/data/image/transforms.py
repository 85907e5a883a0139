"""What happens to an image between its file and an encoder. Legend: H W height and width in pixels."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from micro_diffusion.data.image.colour import eight_bits, in_srgb


def to_rgb(image: Image.Image, background: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """Turn an image as its file says, lay transparent parts over `background`, convert to 8-bit sRGB.

    Raises:
        ValueError: for pixels of an unknown range, see `eight_bits`.
    """
    image = in_srgb(eight_bits(ImageOps.exif_transpose(image)))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), image).convert("RGB")
    return image.convert("RGB")


def shrink(image: Image.Image, *, shorter_side: int | None = None, longer_side: int | None = None) -> Image.Image:
    """Shrink an image, antialiased, until neither side is longer than given; a smaller one stays as it is."""
    limits = ((shorter_side, min(image.size)), (longer_side, max(image.size)))
    scale = min((limit / side for limit, side in limits if limit is not None), default=1)
    if scale >= 1:
        return image
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def crop(image: Image.Image, size: tuple[int, int], place: float = 0.5) -> Image.Image:
    """The largest rectangle of a shape, resized with antialiasing.

    Args:
        image: the image.
        size: (H, W) of the result.
        place: of the rectangle along the side that is cut: 0 at the left or top end, 1 at the other.
    """
    height, width = size
    scale = min(image.width / width, image.height / height)
    cut = min(round(width * scale), image.width), min(round(height * scale), image.height)
    left, top = (round((whole - part) * place) for whole, part in zip(image.size, cut, strict=True))
    part = image.crop((left, top, left + cut[0], top + cut[1]))  # first, or what lies beside it would bleed in
    return part if cut == (width, height) else part.resize((width, height), Image.Resampling.LANCZOS)


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB image -> uint8 (3, H, W)."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def normalise(images: Tensor) -> Tensor:
    """uint8 (..., 3, H, W) -> float32 in [-1, 1], as autoencoders take it."""
    return images.float() / 127.5 - 1
