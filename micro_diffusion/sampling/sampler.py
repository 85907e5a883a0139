"""What every sampler offers. Legend: B batch, C latent channels, h w latent cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from micro_diffusion.diffusion.denoiser import Denoiser
from micro_diffusion.sampling.noise_levels import Karras, Levels, check_steps


@runtime_checkable
class Sampler(Protocol):
    """Turns noise into latents by following a Denoiser down a list of noise levels.

    Attributes:
        steps: noise levels above zero that it visits.
        levels: chooses them.
    """

    steps: int
    levels: Levels

    def sigmas(self, *, sigma_min: float, sigma_max: float) -> list[float]:
        """(steps + 1) falling noise levels, of which the last is 0."""
        ...

    def asked(self, sigmas: Sequence[float]) -> list[float]:
        """Every noise level at which it asks the denoiser on its way down, so that work on them can be done at once."""
        ...

    def __call__(
        self,
        denoiser: Denoiser,
        noise: Tensor,
        *,
        sigmas: Sequence[float],
        generators: list[torch.Generator] | None = None,
    ) -> Tensor:
        """Unit noise (B, C, h, w) -> latents (B, C, h, w) in fp32, down falling noise levels of which the last is 0.

        generators: one for each sample, for samplers that add noise on the way; None where none is added.
        """
        ...


class WalksLevels:
    """What samplers have in common: a number of steps, and a rule for their noise levels.

    Args:
        steps: noise levels above zero.
        levels: chooses them between the lowest and the highest of the objective; None for those of Karras with rho 7.

    Raises:
        ValueError: for fewer than one step.
    """

    def __init__(self, *, steps: int, levels: Levels | None = None) -> None:
        self.steps = check_steps(steps)
        self.levels = levels or Karras()

    def sigmas(self, *, sigma_min: float, sigma_max: float) -> list[float]:
        """(steps + 1) falling noise levels, of which the last is 0."""
        return [*self.levels(self.steps, sigma_min=sigma_min, sigma_max=sigma_max), 0.0]

    def asked(self, sigmas: Sequence[float]) -> list[float]:
        """Those above 0."""
        return [sigma for sigma in sigmas if sigma > 0]


def fresh_noise(like: Tensor, generators: list[torch.Generator] | None) -> Tensor:
    """Unit noise of like's shape, every sample from its own generator, so that it does not depend on its batch.

    Raises ValueError when generators are missing or not one for each sample.
    """
    if generators is None or len(generators) != like.shape[0]:
        count = 0 if generators is None else len(generators)
        raise ValueError(f"a stochastic sampler needs one generator for each of {like.shape[0]} samples, not {count}")
    draws = [torch.randn(like.shape[1:], generator=g, device=g.device, dtype=torch.float32) for g in generators]
    noise = torch.stack(draws)
    if like.is_cuda and not noise.is_cuda:
        noise = noise.pin_memory().to(like.device, non_blocking=True)  # other memory is copied while the host waits
    return noise.to(like)
