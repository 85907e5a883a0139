"""Euler's method on the probability-flow equation: first order, one network call a step (Karras et al. 2022, eq. 3)."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from micro_diffusion.diffusion.denoiser import Denoiser
from micro_diffusion.sampling.noise_levels import KarrasLevels


class EulerSampler(KarrasLevels):
    """Deterministic; equals DDIM without noise in these coordinates.

    Args:
        steps: noise levels above zero.
        rho: bends the levels, see `karras`.
    """

    def __init__(self, *, steps: int = 36, rho: float = 7.0) -> None:
        super().__init__(steps=steps, rho=rho)

    def __call__(
        self,
        denoiser: Denoiser,
        noise: Tensor,
        *,
        sigma_min: float,
        sigma_max: float,
        generators: list[torch.Generator] | None = None,
    ) -> Tensor:
        """Unit noise (B, C, h, w) -> latents (B, C, h, w) in fp32; adds no noise, so generators stay unused."""
        levels = [*self.noise_levels(sigma_min=sigma_min, sigma_max=sigma_max), 0.0]
        x = noise.double() * levels[0]
        for sigma, lower in itertools.pairwise(levels):
            clean = denoiser(x.float(), sigma).double()
            x = clean + (x - clean) * (lower / sigma)
        return x.float()
