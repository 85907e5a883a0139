"""Inpainting without training: Lugmayr et al. 2022, "RePaint", arXiv 2201.09865.

Legend: B batch, C latent channels, h w latent cells.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from micro_diffusion.diffusion.denoiser import Denoiser
from micro_diffusion.sampling.from_image import FromImage
from micro_diffusion.sampling.sampler import Sampler, fresh_noise


class RePaint(FromImage):
    """Steps of DDPM in which the known cells are replaced by the image with noise, and which are partly gone twice.

    Going back up and down again lets the unknown cells agree with the known ones (section 4.2).

    Args:
        sampler: whose noise levels these are; its own way of stepping is not used.
        latents: (1, C, h, w) or (B, C, h, w), the image.
        unknown: (1, 1, h, w) or (B, 1, h, w) bool, true on cells to be generated.
        resamplings: how often each part of the way is gone, at least once (r of the paper).
        jump: steps of a part (j of the paper).
        strength: share of the way that is gone; below 1, the unknown cells start from the image too.

    Raises:
        ValueError: for a number below 1, nothing to generate, or another strength.
    """

    def __init__(
        self,
        sampler: Sampler,
        latents: Tensor,
        unknown: Tensor,
        *,
        resamplings: int = 5,
        jump: int = 5,
        strength: float = 1.0,
    ) -> None:
        super().__init__(sampler, latents, strength=strength)
        if resamplings < 1 or jump < 1:
            raise ValueError(f"RePaint has {resamplings=} and {jump=}; set both to at least 1")
        if not unknown.any():
            raise ValueError("no cell is to be generated; mark some of the image as unknown")
        self.unknown, self.resamplings, self.jump = unknown, resamplings, jump

    def asked(self, sigmas: Sequence[float]) -> list[float]:
        """Those above 0."""
        return [sigma for sigma in sigmas if sigma > 0]

    def __call__(
        self,
        denoiser: Denoiser,
        noise: Tensor,
        *,
        sigmas: Sequence[float],
        generators: list[torch.Generator] | None = None,
    ) -> Tensor:
        """Unit noise (B, C, h, w) and one generator for each sample -> latents (B, C, h, w) in fp32 (Algorithm 1).

        The known cells of the result are those of the image.
        """
        image, unknown = self.latents.to(noise).double(), self.unknown.to(noise.device)
        x = noise.double() * sigmas[0] + (image if self.strength < 1 else 0)
        for here, there in itertools.pairwise(way(len(sigmas) - 1, resamplings=self.resamplings, jump=self.jump)):
            sigma, target = sigmas[-1 - here], sigmas[-1 - there]
            fresh = fresh_noise(x, generators)
            if there > here:  # x + n at sigma keeps its image: only the variance that lacks is added
                x = x + math.sqrt(target**2 - sigma**2) * fresh
                continue
            clean = denoiser(x.float(), sigma).double()
            added = target * math.sqrt(1 - (target / sigma) ** 2)  # the posterior of DDPM (Ho et al. 2020, eq. 7)
            generated = clean + (x - clean) * (math.sqrt(target**2 - added**2) / sigma) + added * fresh
            x = torch.where(unknown, generated, image + target * fresh)
        return x.float()


def way(steps: int, *, resamplings: int, jump: int) -> list[int]:
    """How many steps are left at each moment: falling by 1 to 0, but `jump` up again after every `jump` steps.

    Each such part is gone `resamplings` times; the first, from pure noise, once (the schedule of the paper's code).
    """
    again = dict.fromkeys(range(0, steps - jump, jump), resamplings - 1)
    left = [steps]
    while left[-1] > 0:
        left.append(left[-1] - 1)
        if again.get(left[-1], 0) > 0:
            again[left[-1]] -= 1
            left += range(left[-1] + 1, left[-1] + jump + 1)
    return left
