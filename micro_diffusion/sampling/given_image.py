"""The image that generating starts from: a smaller one, or one of which a region is to be generated.

Legend: B images, H W pixels, h w latent cells.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from micro_diffusion.diffusion.known_region import REGIONS, cells_of


class GivenImage(NamedTuple):
    """images: (B, 3, H, W) uint8. unknown: (B, 1, H, W) bool, true on pixels to be generated, or None for all."""

    images: Tensor
    unknown: Tensor | None = None

    def rows(self, rows: slice) -> GivenImage:
        """Some of the B images."""
        return GivenImage(self.images[rows], None if self.unknown is None else self.unknown[rows])

    def unknown_cells(self, size: tuple[int, int]) -> Tensor | None:
        """(B, 1, h, w) bool: the cells that have a pixel that is unknown."""
        return None if self.unknown is None else functional.adaptive_max_pool2d(self.unknown.float(), size) > 0

    def restored(self, images: Tensor) -> Tensor:
        """Generated images (B, 3, H, W) with the known pixels as they were given."""
        return images if self.unknown is None else torch.where(self.unknown, images, self.images)


def given_image(image: Tensor, region: str | Tensor | None, count: int, size: tuple[int, int]) -> GivenImage:
    """Image and region as `Pipeline.generate` takes them, for each of `count` captions.

    size: (H, W) that the image must have.

    Raises:
        ValueError: for an image of another shape or type, a region of another size, one that does not exist or is
            empty.
    """
    images = image[None] if image.ndim == 3 else image
    if images.dtype != torch.uint8 or images.shape[1:] != (3, *size) or len(images) not in (1, count):
        raise ValueError(
            f"the image is {tuple(image.shape)} of {str(image.dtype).removeprefix('torch.')}, but this run takes uint8 "
            f"(3, {size[0]}, {size[1]}) or {count} of them; resize it, or set another resolution"
        )
    images = images.cpu().expand(count, -1, -1, -1)
    return GivenImage(images, None if region is None else _unknown(region, count, size))


def _unknown(region: str | Tensor, count: int, size: tuple[int, int]) -> Tensor:
    """-> (B, 1, H, W) bool."""
    if isinstance(region, str):
        if region not in REGIONS:
            raise ValueError(f"there is no region {region!r}; choose one of {', '.join(REGIONS)}, or give a mask")
        return cells_of(torch.tensor([REGIONS[region]]), size).expand(count, -1, -1, -1)
    mask = region[None, None] if region.ndim == 2 else region
    if mask.dtype != torch.bool or mask.shape[1:] != (1, *size) or len(mask) not in (1, count):
        raise ValueError(
            f"the region is {tuple(region.shape)} of {str(region.dtype).removeprefix('torch.')}, but a mask is bool "
            f"({size[0]}, {size[1]}), true where pixels are to be generated; make it of the image's size"
        )
    if not mask.flatten(1).any(dim=1).all():
        raise ValueError("the region has no pixel to be generated; mark some as true")
    return mask.cpu().expand(count, -1, -1, -1)
