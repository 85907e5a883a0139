"""Loss weights, as factors of the squared error of the clean image x0.

A squared error of the noise is SNR times that of x0, one of the variance-preserving velocity SNR + 1 times, with
SNR = 1 / sigma²; so one weight serves every prediction, and a weight that a paper states for another error is
stated here for x0.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from micro_diffusion.bounds import NonNegativeFloat, PositiveFloat


class Weight(Protocol):
    """A function of the noise level."""

    def __call__(self, sigma: Tensor, c_out: Tensor) -> Tensor:
        """sigma (B,), and c_out (B,) of the prediction -> (B,)."""
        ...


class Uniform:
    """1: plain squared error of the clean image, at every level."""

    def __call__(self, sigma: Tensor, c_out: Tensor) -> Tensor:
        """Ones."""
        return torch.ones_like(sigma)


class OutputError:
    """1 / c_out²: plain squared error of what the network predicts, be it noise, velocity or the clean image."""

    def __call__(self, sigma: Tensor, c_out: Tensor) -> Tensor:
        """An error of the output is c_out times smaller than that of x0."""
        return c_out**-2


class EDM:
    """lambda(sigma) = (sigma² + sigma_data²) / (sigma·sigma_data)² (Karras et al. 2022, Table 1).

    Args:
        sigma_data: standard deviation of the latents.

    Raises:
        ValueError: for a deviation that is not above 0.
    """

    def __init__(self, *, sigma_data: PositiveFloat) -> None:
        if sigma_data <= 0:
            raise ValueError(f"sigma_data of the loss weight is {sigma_data}; set it above 0")
        self.sigma_data = sigma_data

    def __call__(self, sigma: Tensor, c_out: Tensor) -> Tensor:
        """SNR + 1 / sigma_data²."""
        return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2


class SNR:
    """1 / sigma²: plain squared error of the noise (Ho et al. 2020, eq. 14)."""

    def __call__(self, sigma: Tensor, c_out: Tensor) -> Tensor:
        """The signal-to-noise ratio."""
        return sigma**-2


class MinSNR:
    """min(SNR, gamma) (Hang et al. 2023, arXiv 2303.09556, section 3.4).

    Args:
        gamma: where the weight stops to rise.

    Raises:
        ValueError: for a gamma that is not above 0.
    """

    def __init__(self, *, gamma: PositiveFloat = 5.0) -> None:
        if gamma <= 0:
            raise ValueError(f"gamma of the min-SNR weight is {gamma}; set it above 0, such as 5")
        self.gamma = gamma

    def __call__(self, sigma: Tensor, c_out: Tensor) -> Tensor:
        """gamma where there is little noise."""
        return (sigma**-2).clamp(max=self.gamma)


class P2:
    """SNR / (k + SNR)^gamma (Choi et al. 2022, arXiv 2204.00227, eq. 8, there a factor of the noise's error).

    Args:
        k: bounds the weight at high SNR.
        gamma: how much less levels with little noise count; 0 would be `SNR`.

    Raises:
        ValueError: when k or gamma is not above 0.
    """

    def __init__(self, *, k: PositiveFloat = 1.0, gamma: NonNegativeFloat = 1.0) -> None:
        if k <= 0 or gamma <= 0:
            raise ValueError(f"the P2 weight is given {k=}, {gamma=}; set both above 0, or choose the weight SNR")
        self.k, self.gamma = k, gamma

    def __call__(self, sigma: Tensor, c_out: Tensor) -> Tensor:
        """Falls towards 0 at both ends for gamma above 1."""
        snr = sigma**-2
        return snr / (self.k + snr) ** self.gamma
