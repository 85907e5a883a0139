"""Image to image: sampling that starts from a noised image (Meng et al. 2022, "SDEdit", arXiv 2108.01073).

Legend: B batch, C latent channels, h w latent cells.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from micro_diffusion.diffusion.denoiser import Denoiser
from micro_diffusion.sampling.around import AroundSampler
from micro_diffusion.sampling.sampler import Sampler


class FromImage(AroundSampler):
    """A sampler that goes the last part of another's way, from an image that noise has covered so far.

    Args:
        sampler: whose noise levels and steps these are.
        latents: (1, C, h, w) or (B, C, h, w), the image.
        strength: share of the steps that is gone, above 0 and at most 1: the more, the less is left of the image.

    Raises:
        ValueError: for another strength.
    """

    def __init__(self, sampler: Sampler, latents: Tensor, *, strength: float) -> None:
        if not 0 < strength <= 1:
            raise ValueError(f"the strength is {strength}; choose a number above 0 and at most 1, such as 0.6")
        super().__init__(sampler)
        self.latents, self.strength = latents, strength

    def sigmas(self, *, sigma_min: float, sigma_max: float) -> list[float]:
        """The last of the other sampler's noise levels, at least one above 0."""
        whole = super().sigmas(sigma_min=sigma_min, sigma_max=sigma_max)
        return whole[-1 - max(1, round(self.strength * (len(whole) - 1))) :]

    def __call__(
        self,
        denoiser: Denoiser,
        noise: Tensor,
        *,
        sigmas: Sequence[float],
        generators: list[torch.Generator] | None = None,
    ) -> Tensor:
        """Unit noise (B, C, h, w) -> latents (B, C, h, w) in fp32."""
        start = noise + self.latents.to(noise) / sigmas[0]  # samplers begin at sigma times this: the image plus noise
        return self.sampler(denoiser, start, sigmas=sigmas, generators=generators)
