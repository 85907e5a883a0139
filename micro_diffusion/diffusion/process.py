"""Forward processes: how data and noise are mixed into what the network is shown, x_t = alpha·(x + sigma·n).

Everywhere else in this package x + sigma·n stands for a noisy image ("variance exploding" coordinates), so a process is
the function alpha(sigma) alone. With beta = alpha·sigma it reads x_t = alpha·x + beta·n.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from micro_diffusion.bounds import PositiveFloat


class Process(Protocol):
    """The scale of the network's input."""

    def alpha(self, sigma: Tensor) -> Tensor:
        """Noise levels in latent units -> the factor of x + sigma·n, of the same shape."""
        ...

    def rates(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Derivatives of alpha and beta by the process's own time, by which its velocity is defined."""
        ...


class VariancePreserving:
    """alpha = 1 / sqrt(sigma² + sigma_data²): the input of the network has unit variance (Karras et al. 2022, Table 1).

    With sigma_data = 1 this is the process of DDPM, alpha² = alpha_bar = 1 / (1 + sigma²) (Ho et al. 2020, eq. 4). Its
    time is the angle phi with tan(phi) = sigma / sigma_data (Salimans & Ho 2022, arXiv 2202.00512, appendix D).

    Args:
        sigma_data: standard deviation of the latents.

    Raises:
        ValueError: for a deviation that is not above 0.
    """

    def __init__(self, *, sigma_data: PositiveFloat = 1.0) -> None:
        if sigma_data <= 0:
            raise ValueError(f"sigma_data of the forward process is {sigma_data}; set it above 0")
        self.sigma_data = sigma_data

    def alpha(self, sigma: Tensor) -> Tensor:
        """1 / sqrt(sigma² + sigma_data²), which is cos(phi) / sigma_data."""
        return 1 / self.total(sigma)

    def total(self, sigma: Tensor) -> Tensor:
        """Standard deviation of x + sigma·n."""
        return (sigma**2 + self.sigma_data**2).sqrt()

    def rates(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Of alpha = cos(phi) / sigma_data and beta = sin(phi)."""
        total = self.total(sigma)
        return -sigma / total / self.sigma_data, self.sigma_data / total


class LinearInterpolation:
    """x_t = (1 − s)·x + s·n with s = sigma / (1 + sigma), so alpha = 1 / (1 + sigma).

    The straight paths of rectified flow (Liu et al. 2022, arXiv 2209.03003, eq. 1); its time is s.
    """

    def alpha(self, sigma: Tensor) -> Tensor:
        """1 − s."""
        return 1 / (1 + sigma)

    def rates(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Of alpha = 1 − s and beta = s."""
        one = sigma.new_ones(()).expand_as(sigma)
        return -one, one
