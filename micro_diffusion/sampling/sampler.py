"""What every sampler offers. Legend: B batch, C latent channels, h w latent cells."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from micro_diffusion.diffusion.denoiser import Denoiser


@runtime_checkable
class Sampler(Protocol):
    """Turns noise into latents by following a Denoiser down a list of noise levels.

    Attributes:
        steps: noise levels above zero that it visits.
    """

    steps: int

    def __call__(
        self,
        denoiser: Denoiser,
        noise: Tensor,
        *,
        sigma_min: float,
        sigma_max: float,
        generators: list[torch.Generator] | None = None,
    ) -> Tensor:
        """Unit noise (B, C, h, w) -> latents (B, C, h, w).

        generators: one for each sample, for samplers that add noise on the way; None where none is added.
        """
        ...


@runtime_checkable
class KnowsNoiseLevels(Protocol):
    """A sampler that knows beforehand at which noise levels it will ask the denoiser."""

    def noise_levels(self, *, sigma_min: float, sigma_max: float) -> list[float]:
        """Every such sigma, so that work on them can be done at once."""
        ...


def known_levels(sampler: Sampler, **span: float) -> list[float]:
    """The noise levels of a sampler, where it knows them; none otherwise. span: sigma_min and sigma_max."""
    return sampler.noise_levels(**span) if isinstance(sampler, KnowsNoiseLevels) else []


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
