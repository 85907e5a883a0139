"""What happens to a picture between its file and an encoder. Legend: H W height and width in pixels."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor


def to_rgb(image: Image.Image, background: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """Turn a picture as its file says, lay transparent parts over `background`, convert to 8-bit RGB."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # Pillow clips sixteen bits where it should divide
        image = Image.fromarray((np.asarray(image).astype(np.float32) / 257).round().astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), image).convert("RGB")
    return image.convert("RGB")


def shrink(image: Image.Image, shorter_side: int) -> Image.Image:
    """Shrink a picture, antialiased, until its shorter side is as given; a smaller one stays as it is."""
    scale = shorter_side / min(image.size)
    if scale >= 1:
        return image
    size = (max(shorter_side, round(image.width * scale)), max(shorter_side, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)


def crop_to_square(image: Image.Image, resolution: int) -> Image.Image:
    """The centre square of a picture, resized with antialiasing to `resolution` × `resolution`."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))  # first, or what lies beside it would bleed in
    return square if side == resolution else square.resize((resolution, resolution), Image.Resampling.LANCZOS)


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB picture -> uint8 (3, H, W)."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def normalise(images: Tensor) -> Tensor:
    """uint8 (..., 3, H, W) -> float32 in [-1, 1], as autoencoders take it."""
    return images.float() / 127.5 - 1
