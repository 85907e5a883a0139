"""DPM-Solver++(2M): Lu et al. 2022, "DPM-Solver++", arXiv 2211.01095, Algorithm 2."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from micro_diffusion.diffusion.denoiser import Denoiser
from micro_diffusion.sampling.noise_levels import KarrasLevels


class DPMpp2MSampler(KarrasLevels):
    """Deterministic and second order with one network call a step: it also uses the call of the step before.

    Args:
        steps: noise levels above zero.
        rho: bends the levels, see `karras`.
    """

    def __init__(self, *, steps: int = 15, rho: float = 7.0) -> None:
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
        """Unit noise (B, C, h, w) -> latents (B, C, h, w) in fp32; adds no noise, so generators stay unused.

        The denoised image is continued as a straight line in lambda = −ln sigma; the step to 0 takes it as it is.
        """
        levels = [*self.noise_levels(sigma_min=sigma_min, sigma_max=sigma_max), 0.0]
        x = noise.double() * levels[0]
        before, width_before = x, math.inf  # an infinitely wide step before the first one: no slope is known yet
        for sigma, lower in itertools.pairwise(levels):
            clean = denoiser(x.float(), sigma).double()
            width = math.log(sigma / lower) if lower > 0 else 0.0
            middle = clean + width / (2 * width_before) * (clean - before)
            x = middle + (x - middle) * (lower / sigma)
            before, width_before = clean, width
        return x.float()
