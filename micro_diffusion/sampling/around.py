"""What samplers have in common that let another do the work."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from micro_diffusion.sampling.sampler import Sampler


class AroundSampler:
    """Has the steps and noise levels of another sampler, until it is given other steps.

    Args:
        sampler: the other one, which stays as it is.
    """

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self.steps, self.levels = sampler.steps, sampler.levels

    @property
    def sampler(self) -> Sampler:
        """The other one, with as many steps as this one."""
        sampler = copy.copy(self._sampler)
        sampler.steps = self.steps
        return sampler

    def sigmas(self, *, sigma_min: float, sigma_max: float) -> list[float]:
        """(steps + 1) falling noise levels, of which the last is 0."""
        return self.sampler.sigmas(sigma_min=sigma_min, sigma_max=sigma_max)

    def asked(self, sigmas: Sequence[float]) -> list[float]:
        """Every noise level at which the denoiser is asked on the way down `sigmas`."""
        return self.sampler.asked(sigmas)
