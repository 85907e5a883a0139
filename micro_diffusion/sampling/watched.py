"""A sampler that shows what it has so far, for previews and progress bars."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from micro_diffusion.diffusion.denoiser import Denoiser, NoiseLevel
from micro_diffusion.sampling.around import AroundSampler
from micro_diffusion.sampling.sampler import Sampler

OnCall = Callable[[Tensor, int, int], object]
"""Called with the denoised latents (B, C, h, w), the step in which that was, from 1 on, and the number of steps."""


class Watched(AroundSampler):
    """Another sampler, after each of whose network calls somebody is told.

    Args:
        sampler: does all the work.
        on_call: is told.
    """

    def __init__(self, sampler: Sampler, on_call: OnCall) -> None:
        super().__init__(sampler)
        self.on_call = on_call

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
            level = float(sigma.flatten()[0] if isinstance(sigma, Tensor) else sigma)
            step = max(1, sum(higher >= level for higher in sigmas))
            self.on_call(clean, step, len(sigmas) - 1)
            return clean

        return self.sampler(told, noise, sigmas=sigmas, generators=generators)
