"""Euler's method with renewed noise, which is DDIM and DDPM: Song et al. 2021, arXiv 2010.02502, eq. 12 and 16."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from micro_diffusion.bounds import NonNegativeFloat, PositiveInt
from micro_diffusion.diffusion.denoiser import Denoiser
from micro_diffusion.sampling.noise_levels import Levels, check_sigmas
from micro_diffusion.sampling.sampler import WalksLevels, fresh_noise


class EulerAncestralSampler(WalksLevels):
    """Each step goes below the next noise level and adds fresh noise up to it; one network call a step.

    Args:
        steps: noise levels above zero.
        levels: chooses them; None for those of Karras.
        eta: share of the noise of DDPM's posterior that is renewed: 0 is `EulerSampler`, 1 is DDPM (Ho et al. 2020,
            eq. 7), between them it is the eta of DDIM.

    Raises:
        ValueError: for an eta outside [0, 1].
    """

    def __init__(self, *, steps: PositiveInt = 100, levels: Levels | None = None, eta: NonNegativeFloat = 1.0) -> None:
        super().__init__(steps=steps, levels=levels)
        if not 0 <= eta <= 1:
            raise ValueError(f"eta of the sampler is {eta}; set it between 0 and 1")
        self.eta = eta

    def __call__(
        self,
        denoiser: Denoiser,
        noise: Tensor,
        *,
        sigmas: Sequence[float],
        generators: list[torch.Generator] | None = None,
    ) -> Tensor:
        """Unit noise (B, C, h, w) -> latents (B, C, h, w) in fp32; generators one a sample, needed when eta > 0."""
        sigmas = check_sigmas(sigmas)
        x = noise.double() * sigmas[0]
        for sigma, lower in itertools.pairwise(sigmas):
            clean = denoiser(x.float(), sigma).double()
            added = self.eta * lower * math.sqrt(1 - (lower / sigma) ** 2)
            kept = math.sqrt(lower**2 - added**2)
            x = clean + (x - clean) * (kept / sigma)
            if added > 0:
                x = x + added * fresh_noise(x, generators)
        return x.float()
