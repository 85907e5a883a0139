"""The image and the mask that people give, made to fit what a run generates.

Legend: H W pixels.
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from micro_diffusion.diffusion.known_region import REGIONS, cells_of
from micro_diffusion.sampling.grid import from_pil

ImageSource = Image.Image | str | Path
"""An image of Pillow, or the file of one."""


def opened(image: ImageSource) -> Image.Image:
    """The image itself, turned as its EXIF data say.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file is no image.
    """
    if isinstance(image, Image.Image):
        return image
    try:
        with Image.open(image) as file:
            return ImageOps.exif_transpose(file).copy()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no image {image}; give a PNG, JPEG or WebP file") from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{image} is no image that can be read; give a PNG, JPEG or WebP file") from error


def name_of(image: ImageSource | None) -> str | None:
    """What a recipe calls the image."""
    if isinstance(image, Image.Image):
        return getattr(image, "filename", "") or "in memory"
    return None if image is None else str(image)


def fitted(image: ImageSource, size: tuple[int, int]) -> Tensor:
    """The middle of the image at the size (H, W) -> uint8 (3, H, W)."""
    height, width = size
    return from_pil(ImageOps.fit(opened(image).convert("RGB"), (width, height), Image.Resampling.LANCZOS))


def fitted_mask(mask: ImageSource, image: ImageSource, size: tuple[int, int]) -> Tensor:
    """A mask for `fitted` of the same image -> bool (H, W), true where the mask is white: there is to be generated.

    Raises:
        ValueError: when the mask is of another size than the image, or nothing in it is white.
    """
    drawn, shown = opened(mask).convert("L"), opened(image)
    if drawn.size != shown.size:
        raise ValueError(
            f"the mask has {drawn.width}×{drawn.height} pixels, but the image {shown.width}×{shown.height}; give a "
            "mask of the image's size"
        )
    height, width = size
    white = from_pil(ImageOps.fit(drawn, (width, height), Image.Resampling.NEAREST))[0] > 127
    if not white.any():
        raise ValueError("nothing in the mask is white, so there is nothing to generate; paint white what is to change")
    return white


def region_mask(region: str, size: tuple[int, int]) -> Tensor:
    """The mask of a region by its name -> bool (H, W), true where there is to be generated.

    Raises:
        ValueError: when there is no such region.
    """
    if region not in REGIONS:
        raise ValueError(f"there is no region {region!r}; choose one of {', '.join(REGIONS)}, or give a mask")
    return cells_of(torch.tensor([REGIONS[region]]), size)[0, 0]
