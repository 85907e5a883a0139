"""Inpainting and outpainting: the network sees the known region of an image, and which region that is.

Legend: B batch, C latent channels, h w latent cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from micro_diffusion.bounds import Fraction
from micro_diffusion.diffusion.image_conditioning import ImageInSampling, ImageInTraining, RandomNumbers, check_given

REGIONS: dict[str, tuple[float, float, float, float]] = {
    "left": (0.0, 0.0, 1.0, 0.5),
    "right": (0.0, 0.5, 1.0, 1.0),
    "top": (0.0, 0.0, 0.5, 1.0),
    "bottom": (0.5, 0.0, 1.0, 1.0),
    "all": (0.0, 0.0, 1.0, 1.0),
}
"""Unknown regions by name: top, left, bottom and right edge as shares of height and width."""

RECTANGLE = "rectangle"


class KnownRegion:
    """C + 1 channels: latents that are zero where they are unknown, and a mask that is 1 there.

    The form of the outpainting branch of apapiu/transformer_latent_diffusion, with the mask that other inpainting
    networks are given (Rombach et al. 2022, arXiv 2112.10752, §4.5).

    Args:
        regions: what is unknown in training, each sample's drawn with equal chances: "rectangle" for one at random, or
            a half: "left", "right", "top", "bottom"; or "all".
        rectangle: the least and largest share of the height, and of the width, that a rectangle takes.
        loss_in_unknown_only: count the loss of unknown cells alone.

    Raises:
        ValueError: for a region that does not exist, none at all, or shares that no rectangle can have.
    """

    tells_level = False

    def __init__(
        self,
        *,
        regions: Sequence[str] = (RECTANGLE, "left", "right", "top", "bottom"),
        rectangle: tuple[Fraction, Fraction] = (0.25, 0.75),
        loss_in_unknown_only: bool = False,
    ) -> None:
        known = [RECTANGLE, *REGIONS]
        wrong = [region for region in regions if region not in known]
        if wrong or not regions:
            raise ValueError(
                f"image_conditioner.regions is {list(regions)}; set it to one or more of {', '.join(known)}"
            )
        least, largest = rectangle
        if not 0 < least <= largest <= 1:
            raise ValueError(
                f"image_conditioner.rectangle is {list(rectangle)}; set it to two rising shares above 0 and up to 1"
            )
        self.regions, self.rectangle, self.loss_in_unknown_only = tuple(regions), (least, largest), loss_in_unknown_only

    def channels(self, latent_channels: int) -> int:
        """C -> C + 1."""
        return latent_channels + 1

    def in_training(self, clean: Tensor, draws: RandomNumbers) -> ImageInTraining:
        """Clean latents (B, C, h, w) -> what is known of them in regions drawn at random."""
        unknown = self.random_regions(draws.uniform(5), (clean.shape[2], clean.shape[3]))
        return ImageInTraining(_seen(clean, unknown), None, unknown if self.loss_in_unknown_only else None)

    def random_regions(self, uniform: Tensor, size: tuple[int, int]) -> Tensor:
        """Uniform numbers (B, 5) in [0, 1) -> unknown cells (B, 1, h, w) bool, at least one of each sample."""
        least, largest = self.rectangle
        share = least + (largest - least) * uniform[:, 1:3]
        start = (1 - share) * uniform[:, 3:5]
        rectangles = torch.cat([start, start + share], dim=1)
        boxes = torch.stack([torch.tensor(REGIONS[r]).expand_as(rectangles) if r in REGIONS else rectangles
                             for r in self.regions])  # fmt: skip
        chosen = (uniform[:, 0] * len(self.regions)).long()
        return cells_of(boxes[chosen, torch.arange(len(chosen))], size)

    def in_sampling(
        self, given: Tensor, size: tuple[int, int], generators: Sequence[torch.Generator], unknown: Tensor | None = None
    ) -> ImageInSampling:
        """Latents (B, C, h, w) of the image, and the cells (B, 1, h, w) of it that are to be generated."""
        check_given(given, size, "the image of which a region is known")
        if unknown is None:
            raise ValueError(
                "this run generates the unknown region of an image, but is not told which that is; give a region, "
                f"such as {', '.join(REGIONS)}, or a mask"
            )
        return ImageInSampling(_seen(given, unknown), None, given, unknown)

    def given_pixels(self, size: tuple[int, int]) -> tuple[int, int]:
        """The image's own size."""
        return size

    def example(self, images: Tensor) -> dict[str, Any]:
        """The images, with the first half that training knows as the unknown region, or else the right one."""
        halves = [region for region in self.regions if region in REGIONS and region != "all"]
        return {"image": images, "region": halves[0] if halves else "right"}


def cells_of(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes (B, 4), edges top, left, bottom and right as shares of `size` (h, w) -> cells (B, 1, h, w) bool.

    A box has at least one cell.
    """
    height, width = size
    inside = []
    for cells, low, high in ((height, boxes[:, 0], boxes[:, 2]), (width, boxes[:, 1], boxes[:, 3])):
        first = (low * cells).round().clamp(max=cells - 1)
        last = torch.maximum((high * cells).round(), first + 1)
        index = torch.arange(cells, device=boxes.device)
        inside.append((index >= first[:, None]) & (index < last[:, None]))
    rows, columns = inside
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def _seen(latents: Tensor, unknown: Tensor) -> Tensor:
    """(B, C, h, w), (B, 1, h, w) -> (B, C + 1, h, w)."""
    return torch.cat([latents.masked_fill(unknown, 0), unknown.to(latents.dtype)], dim=1)
