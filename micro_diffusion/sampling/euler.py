"""Euler's method on the probability-flow equation: first order, one network call a step (Karras et al. 2022, eq. 3)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from micro_diffusion.bounds import PositiveInt
from micro_diffusion.diffusion.denoiser import Denoiser
from micro_diffusion.sampling.noise_levels import Levels, check_sigmas_without_noise
from micro_diffusion.sampling.sampler import WalksLevels


class EulerSampler(WalksLevels):
    """Deterministic; equals DDIM without noise in these coordinates.

    Args:
        steps: noise levels above zero.
        levels: chooses them; None for those of Karras.
    """

    def __init__(self, *, steps: PositiveInt = 36, levels: Levels | None = None) -> None:
        super().__init__(steps=steps, levels=levels)

    def __call__(
        self,
        denoiser: Denoiser,
        noise: Tensor,
        *,
        sigmas: Sequence[float],
        generators: list[torch.Generator] | None = None,
    ) -> Tensor:
        """Unit noise (B, C, h, w) -> latents (B, C, h, w) in fp32; adds no noise, so generators stay unused."""
        sigmas = check_sigmas_without_noise(sigmas)
        x = noise.double() * sigmas[0]
        for sigma, lower in itertools.pairwise(sigmas):
            clean = denoiser(x.float(), sigma).double()
            x = clean + (x - clean) * (lower / sigma)
        return x.float()
