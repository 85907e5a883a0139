"""What a network predicts: the affine map from its output F to the clean image, x0 = c_skip·(x + sigma·n) + c_out·F."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from micro_diffusion.diffusion.process import Process, VariancePreserving


class Prediction(Protocol):
    """Turns the network's output into the clean image."""

    def coefficients(self, process: Process, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """c_skip and c_out, each of sigma's shape.

        Raises ValueError for a process with which this prediction has no meaning.
        """
        ...


class X0:
    """F is the clean image itself."""

    def coefficients(self, process: Process, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """0 and 1."""
        return torch.zeros_like(sigma), torch.ones_like(sigma)


class Noise:
    """F is the noise n, so x0 = (x + sigma·n) − sigma·F (Ho et al. 2020, eq. 15)."""

    def coefficients(self, process: Process, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """1 and −sigma."""
        return torch.ones_like(sigma), -sigma


class Velocity:
    """F is the derivative of x_t = alpha·x + beta·n by the time of the process, alpha'·x + beta'·n.

    With `VariancePreserving` it is v = alpha·n − beta·x (Salimans & Ho 2022, arXiv 2202.00512, eq. 12); with
    `LinearInterpolation` it is n − x (Liu et al. 2022, arXiv 2209.03003, eq. 1, with time from data to noise).
    """

    def coefficients(self, process: Process, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """x from the two equations for x_t and F, by Cramer's rule."""
        alpha, (alpha_rate, beta_rate) = process.alpha(sigma), process.rates(sigma)
        beta = alpha * sigma
        determinant = alpha * beta_rate - beta * alpha_rate
        return beta_rate * alpha / determinant, -beta / determinant


class EDMOutput:
    """F of Karras et al. 2022, Table 1: unit variance for data of deviation sigma_data; minus their velocity."""

    def coefficients(self, process: Process, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """sigma_data² / (sigma² + sigma_data²) and sigma·sigma_data / sqrt(sigma² + sigma_data²)."""
        if not isinstance(process, VariancePreserving):
            raise ValueError(
                f"the EDM output is defined for the process VariancePreserving, not for {type(process).__name__}; "
                "choose another objective.prediction or objective.process"
            )
        total = process.total(sigma)
        return process.sigma_data**2 / total**2, sigma * process.sigma_data / total
