"""Denoised images kept within the range of pixels, which strong guidance leaves.

Saharia et al. 2022 (Imagen), arXiv 2205.11487, §2.3 and appendix A.32. Legend: B batch, C channels, h w pixels.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from micro_diffusion.bounds import Fraction
from micro_diffusion.diffusion.denoiser import Denoiser, NoiseLevel


class Thresholding(Protocol):
    """Wraps a denoiser of images in [-1, 1]."""

    def __call__(self, denoiser: Denoiser) -> Denoiser:
        """A denoiser whose images lie in [-1, 1]."""
        ...


class StaticThresholding:
    """Numbers beyond -1 and 1 become -1 and 1."""

    def __call__(self, denoiser: Denoiser) -> Denoiser:
        """Clamped."""
        return lambda x, sigma: denoiser(x, sigma).clamp(-1, 1)


class DynamicThresholding:
    """Each image is clamped at a quantile of its absolute values, at least 1, and divided by it.

    So most numbers of a saturated image move inwards, rather than all that are beyond to the same end.

    Args:
        quantile: above 0, and at most 1.

    Raises:
        ValueError: for another quantile.
    """

    def __init__(self, *, quantile: Fraction = 0.95) -> None:
        if not 0 < quantile <= 1:
            raise ValueError(f"thresholding.quantile is {quantile}; set it above 0 and to at most 1, such as 0.95")
        self.quantile = quantile

    def __call__(self, denoiser: Denoiser) -> Denoiser:
        """Thresholded at every noise level."""

        def denoise(x: Tensor, sigma: NoiseLevel) -> Tensor:
            clean = denoiser(x, sigma)
            limit = quantile_of_rows(clean.abs().flatten(1), self.quantile).clamp(min=1).view(-1, 1, 1, 1)
            return clean.clamp(-limit, limit) / limit

        return denoise


def quantile_of_rows(rows: Tensor, quantile: float) -> Tensor:
    """(B, N) -> (B,): `torch.quantile`, which refuses more than 2^24 numbers, by sorting each row alone."""
    place = quantile * (rows.shape[1] - 1)
    below = int(place)
    ordered = rows.float().sort(dim=1).values
    low, high = ordered[:, below], ordered[:, min(below + 1, rows.shape[1] - 1)]
    return torch.lerp(low, high, place - below).to(rows.dtype)
