"""Super-resolution: the network sees a smaller version of the image, enlarged, with noise that hides its faults.

Ho et al. 2021, "Cascaded Diffusion Models", arXiv 2106.15282; Saharia et al. 2022, "Imagen", arXiv 2205.11487, §2.4.
Legend: B batch, C latent channels, h w latent cells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from micro_diffusion.bounds import NonNegativeFloat, PositiveInt
from micro_diffusion.diffusion.image_conditioning import ImageInSampling, ImageInTraining, RandomNumbers, check_given

Enlargement = Literal["nearest", "bilinear"]


class LowResolution:
    """C channels: the clean latents shrunk by `factor` (mean of each square), enlarged again, and noised.

    The noise (conditioning augmentation) keeps the network from trusting details that a smaller model gets wrong. Its
    level is told.

    Args:
        factor: of the sides; a whole number above 1.
        enlargement: "nearest", as in Imagen, or "bilinear".
        levels: lowest and highest noise std sigma of training, between which it is drawn uniformly.
        level_of_each_sample: draw a level for each sample rather than one for the batch.
        sampling_level: noise std sigma in sampling.

    Raises:
        ValueError: for a factor below 2, an enlargement that does not exist, or levels that do not fit together.
    """

    tells_level = True

    def __init__(
        self,
        *,
        factor: PositiveInt,
        enlargement: Enlargement = "bilinear",
        levels: tuple[NonNegativeFloat, NonNegativeFloat] = (0.0, 1.0),
        level_of_each_sample: bool = True,
        sampling_level: NonNegativeFloat = 0.2,
    ) -> None:
        low, high = levels
        if factor < 2:
            raise ValueError(f"image_conditioner.factor is {factor}; set it to a whole number above 1")
        if enlargement not in ("nearest", "bilinear"):
            raise ValueError(f"image_conditioner.enlargement is {enlargement!r}; set it to nearest or bilinear")
        if not 0 <= low <= high < math.inf:
            raise ValueError(f"image_conditioner.levels is {list(levels)}; set it to two rising noise levels from 0 on")
        if not low <= sampling_level <= high:
            raise ValueError(
                f"image_conditioner.sampling_level is {sampling_level}, but training sees levels from {low} to {high}; "
                "choose one between"
            )
        self.factor, self.enlargement = factor, enlargement
        self.levels, self.level_of_each_sample, self.sampling_level = (low, high), level_of_each_sample, sampling_level

    def channels(self, latent_channels: int) -> int:
        """C -> C."""
        return latent_channels

    def in_training(self, clean: Tensor, draws: RandomNumbers) -> ImageInTraining:
        """Clean latents (B, C, h, w), their sides multiples of the factor -> a worse version of them, and its level."""
        low, high = self.levels
        each = draws.uniform() if self.level_of_each_sample else torch.rand((), generator=draws.shared)
        level = (low + (high - low) * each).expand(len(clean)).to(clean.device)
        noise = draws.normal(*clean.shape[1:]).to(clean.device)
        seen = self.enlarge(self.shrink(clean.float()), (clean.shape[2], clean.shape[3]))
        return ImageInTraining(seen + level.view(-1, 1, 1, 1) * noise, level)

    def in_sampling(
        self, given: Tensor, size: tuple[int, int], generators: Sequence[torch.Generator], unknown: Tensor | None = None
    ) -> ImageInSampling:
        """Latents (B, C, h/factor, w/factor) of a smaller image."""
        check_given(given, self.given_pixels(size), "the smaller image")
        if unknown is not None:
            raise ValueError(
                "this run enlarges images and makes all of their cells anew, so a region has no effect; leave it out"
            )
        noise = torch.stack([torch.randn((given.shape[1], *size), generator=generator) for generator in generators])
        seen = self.enlarge(given.float(), size) + self.sampling_level * noise.to(given.device)
        return ImageInSampling(seen, seen.new_full((len(seen),), self.sampling_level))

    def given_pixels(self, size: tuple[int, int]) -> tuple[int, int]:
        """(H, W) -> (H/factor, W/factor); ValueError where that is no whole number."""
        height, width = size
        if height % self.factor or width % self.factor:
            raise ValueError(
                f"{height}×{width} is no multiple of image_conditioner.factor={self.factor}; choose another resolution"
            )
        return height // self.factor, width // self.factor

    def example(self, images: Tensor) -> dict[str, Any]:
        """Shrunk images."""
        return {"image": self.shrink(images.float()).round().to(torch.uint8)}

    def shrink(self, images: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h/factor, w/factor), the mean of each square."""
        self.given_pixels((images.shape[2], images.shape[3]))
        return functional.avg_pool2d(images, self.factor)

    def enlarge(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, C, …) -> (B, C, h, w)."""
        if self.enlargement == "nearest":
            return functional.interpolate(images, size, mode="nearest")
        return functional.interpolate(images, size, mode="bilinear", align_corners=False)
