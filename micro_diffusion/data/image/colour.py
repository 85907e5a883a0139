"""Pixels of any kind as 8 bits a channel in sRGB, which is what networks and screens take numbers for."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms


def eight_bits(image: Image.Image) -> Image.Image:
    """An image of 16-bit, 32-bit or floating-point numbers with 8; others as they are. Pillow would clip them instead.

    Whole numbers up to 65,535 count as 16 bits, those up to 255 as 8; floating-point ones up to 1 as shares of white,
    those up to 255 as 8 bits.

    Raises:
        ValueError: when the numbers are outside these ranges.
    """
    if image.mode not in ("F", "I") and not image.mode.startswith("I;16"):
        return image
    pixels = np.asarray(image).astype(np.float64)
    highest = pixels.max()
    if not np.isfinite(pixels).all() or pixels.min() < 0 or highest > (255 if image.mode == "F" else 65535):
        raise ValueError(f"pixels from {pixels.min():g} to {highest:g} are in no range that is known")
    if image.mode == "F":
        pixels *= 255 if highest <= 1 else 1
    elif image.mode != "I" or highest > 255:
        pixels /= 257
    return Image.fromarray(pixels.round().astype(np.uint8))


def in_srgb(image: Image.Image) -> Image.Image:
    """An image with the colours that its profile gives its numbers; phones, for one, write Display P3.

    A profile that is damaged or of another kind of image is as good as none, as it is in browsers.
    """
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK", "L"):
        return image
    transform = _transform(profile, "RGB" if image.mode == "RGBA" else image.mode)
    if transform is None:
        return image
    converted = ImageCms.applyTransform(image.convert("RGB") if image.mode == "RGBA" else image, transform)
    assert converted is not None  # it is not done in place
    if image.mode == "RGBA":
        converted.putalpha(image.getchannel("A"))
    return converted


@lru_cache(maxsize=64)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From a profile to sRGB; None where that changes nothing or cannot be."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if mode == "RGB" and "srgb" in ImageCms.getProfileDescription(source).lower():
            return None
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
