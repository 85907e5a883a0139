"""Heun's method: Karras et al. 2022, Algorithms 1 (deterministic) and 2 (stochastic)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor

from micro_diffusion.bounds import NonNegativeFloat, PositiveInt
from micro_diffusion.diffusion.denoiser import Denoiser
from micro_diffusion.sampling.noise_levels import Levels, check_sigmas
from micro_diffusion.sampling.sampler import WalksLevels, fresh_noise


class HeunSampler(WalksLevels):
    """Second order; two network calls a step, one in the last. Runs in float64 between network calls.

    Args:
        steps: noise levels above zero.
        levels: chooses them; None for those of Karras.
        churn: S_churn, how much noise is renewed along the way; 0 is deterministic.
        churn_sigma_min: S_tmin, lowest level at which noise is renewed.
        churn_sigma_max: S_tmax, highest level at which noise is renewed.
        churn_noise: S_noise, standard deviation of the renewed noise.

    Raises:
        ValueError: for settings of the churn without churn, or churn that no noise level gets.
    """

    def __init__(
        self,
        *,
        steps: PositiveInt = 18,
        levels: Levels | None = None,
        churn: NonNegativeFloat = 0.0,
        churn_sigma_min: NonNegativeFloat = 0.0,
        churn_sigma_max: Annotated[float, Ge(0), Le(math.inf)] = math.inf,
        churn_noise: NonNegativeFloat = 1.0,
    ) -> None:
        super().__init__(steps=steps, levels=levels)
        if churn < 0 or churn_sigma_min > churn_sigma_max or churn_noise < 0:
            raise ValueError(
                f"the sampler has {churn=}, {churn_noise=} and churn between {churn_sigma_min} and {churn_sigma_max}; "
                "set no number below 0, and churn_sigma_min below churn_sigma_max"
            )
        if churn == 0 and (churn_sigma_min, churn_sigma_max, churn_noise) != (0.0, math.inf, 1.0):
            raise ValueError(
                "churn_sigma_min, churn_sigma_max and churn_noise of the sampler have no effect while churn is 0; set "
                "churn above 0, or leave them out"
            )
        self.churn, self.churn_noise = churn, churn_noise
        self.churn_sigma_min, self.churn_sigma_max = churn_sigma_min, churn_sigma_max

    def asked(self, sigmas: Sequence[float]) -> list[float]:
        """Those above 0, and those that churn raises."""
        visited = super().asked(sigmas)
        return [*visited, *(raised for sigma in visited if (raised := self._raised(sigma, len(visited))) != sigma)]

    def _raised(self, sigma: float, steps: int) -> float:
        """The level after churn (Algorithm 2)."""
        if self.churn > 0 and self.churn_sigma_min <= sigma <= self.churn_sigma_max:
            return sigma * (1 + min(self.churn / steps, math.sqrt(2) - 1))
        return sigma

    def __call__(
        self,
        denoiser: Denoiser,
        noise: Tensor,
        *,
        sigmas: Sequence[float],
        generators: list[torch.Generator] | None = None,
    ) -> Tensor:
        """Unit noise (B, C, h, w) -> latents (B, C, h, w) in fp32; generators one a sample, needed when churn > 0."""
        sigmas = check_sigmas(sigmas)
        x = noise.double() * sigmas[0]
        for sigma, lower in itertools.pairwise(sigmas):
            if (higher := self._raised(sigma, len(sigmas) - 1)) != sigma:
                x = x + math.sqrt(higher**2 - sigma**2) * self.churn_noise * fresh_noise(x, generators)
                sigma = higher
            slope = _slope(denoiser, x, sigma)
            ahead = x + (lower - sigma) * slope
            if lower > 0:
                ahead = x + (lower - sigma) * (slope + _slope(denoiser, ahead, lower)) / 2
            x = ahead
        return x.float()


def _slope(denoiser: Denoiser, x: Tensor, sigma: float) -> Tensor:
    """dx/dsigma = (x − D(x; sigma)) / sigma (eq. 3)."""
    return (x - denoiser(x.float(), sigma).double()) / sigma
