"""A sampler that shows what it has so far, for previews and progress bars."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from micro_diffusion.diffusion.denoiser import Denoiser, NoiseLevel
from micro_diffusion.sampling.sampler import Sampler

OnCall = Callable[[Tensor, float], object]
"""Called with the denoised latents (B, C, h, w) and the noise level sigma that they were denoised from."""


class Watched:
    """Another sampler, after each of whose network calls somebody is told.

    Args:
        sampler: does all the work.
        on_call: is told.
    """

    def __init__(self, sampler: Sampler, on_call: OnCall) -> None:
        self.sampler, self.on_call = copy.copy(sampler), on_call
        self.levels = sampler.levels

    @property
    def steps(self) -> int:
        """Those of the other sampler."""
        return self.sampler.steps

    @steps.setter
    def steps(self, steps: int) -> None:
        self.sampler.steps = steps

    def sigmas(self, *, sigma_min: float, sigma_max: float) -> list[float]:
        """Those of the other sampler."""
        return self.sampler.sigmas(sigma_min=sigma_min, sigma_max=sigma_max)

    def asked(self, sigmas: Sequence[float]) -> list[float]:
        """Those of the other sampler."""
        return self.sampler.asked(sigmas)

    def __call__(
        self,
        denoiser: Denoiser,
        noise: Tensor,
        *,
        sigmas: Sequence[float],
        generators: list[torch.Generator] | None = None,
    ) -> Tensor:
        """Unit noise (B, C, h, w) -> latents (B, C, h, w), as the other sampler makes them."""

        def told(x: Tensor, sigma: NoiseLevel) -> Tensor:
            clean = denoiser(x, sigma)
            self.on_call(clean, float(sigma.flatten()[0] if isinstance(sigma, Tensor) else sigma))
            return clean

        return self.sampler(told, noise, sigmas=sigmas, generators=generators)
