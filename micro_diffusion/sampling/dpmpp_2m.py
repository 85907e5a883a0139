"""DPM-Solver++(2M): Lu et al. 2022, "DPM-Solver++", arXiv 2211.01095, Algorithm 2, and its form with noise, eq. 18."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from micro_diffusion.bounds import NonNegativeFloat, PositiveInt
from micro_diffusion.diffusion.denoiser import Denoiser
from micro_diffusion.sampling.noise_levels import Levels, check_sigmas, check_sigmas_without_noise
from micro_diffusion.sampling.sampler import WalksLevels, fresh_noise


class DPMpp2MSampler(WalksLevels):
    """Deterministic and second order with one network call a step: it also uses the call of the step before.

    Args:
        steps: noise levels above zero.
        levels: chooses them; None for those of Karras.
    """

    eta = 0.0

    def __init__(self, *, steps: PositiveInt = 15, levels: Levels | None = None) -> None:
        super().__init__(steps=steps, levels=levels)

    def __call__(
        self,
        denoiser: Denoiser,
        noise: Tensor,
        *,
        sigmas: Sequence[float],
        generators: list[torch.Generator] | None = None,
    ) -> Tensor:
        """Unit noise (B, C, h, w) -> latents (B, C, h, w) in fp32; generators one a sample, needed when eta > 0.

        The denoised image is continued as a straight line in lambda = −ln sigma; the step to 0 takes it as it is.
        """
        sigmas = check_sigmas(sigmas) if self.eta > 0 else check_sigmas_without_noise(sigmas)
        x = noise.double() * sigmas[0]
        before, width_before = x, math.inf  # an infinitely wide step before the first one: no slope is known yet
        for sigma, lower in itertools.pairwise(sigmas):
            clean = denoiser(x.float(), sigma).double()
            width = math.log(sigma / lower) if lower > 0 else 0.0
            middle = clean + width / (2 * width_before) * (clean - before)
            x = middle + (x - middle) * (lower / sigma * math.exp(-self.eta * width))
            if self.eta > 0 and lower > 0:
                x = x + lower * math.sqrt(-math.expm1(-2 * self.eta * width)) * fresh_noise(x, generators)
            before, width_before = clean, width
        return x.float()


class DPMpp2MSDESampler(DPMpp2MSampler):
    """The same with fresh noise in each step but the last.

    Args:
        steps: noise levels above zero.
        levels: chooses them; None for those of Karras.
        eta: how much noise is renewed; 1 follows the reverse diffusion equation, 0 would be `DPMpp2MSampler`.

    Raises:
        ValueError: for an eta that is not above 0.
    """

    def __init__(self, *, steps: PositiveInt = 25, levels: Levels | None = None, eta: NonNegativeFloat = 1.0) -> None:
        super().__init__(steps=steps, levels=levels)
        if eta <= 0:
            raise ValueError(f"eta of the sampler is {eta}; set it above 0, or choose the sampler dpmpp_2m")
        self.eta = eta
