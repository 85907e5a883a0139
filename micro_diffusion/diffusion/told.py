"""What a network is told of the noise level. sigma: noise std in latent units."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from micro_diffusion.bounds import PositiveFloat
from micro_diffusion.diffusion.curve import Curve
from micro_diffusion.diffusion.schedule import BetaTable


class Told(Protocol):
    """A function of the noise level."""

    def __call__(self, sigma: Tensor) -> Tensor:
        """(S,) or () -> the same shape and type."""
        ...


class QuarterLogSigma:
    """c_noise = ln(sigma) / 4 (Karras et al. 2022, Table 1)."""

    def __call__(self, sigma: Tensor) -> Tensor:
        """About −1.6 at sigma 0.002, 1.1 at 80."""
        return sigma.log() / 4


class LogSNR:
    """−2·ln sigma, the log-SNR of a variance-preserving process (Kingma et al. 2021, arXiv 2107.00630, section 3.1)."""

    def __call__(self, sigma: Tensor) -> Tensor:
        """Falls as the noise rises."""
        return -2 * sigma.log()


class LinearTime:
    """scale · s, with s = sigma / (1 + sigma), the time of `LinearInterpolation`.

    Args:
        scale: 1, or 1000 for a network whose embedding of the level is made for the steps of a table.

    Raises:
        ValueError: for a scale that is not above 0.
    """

    def __init__(self, *, scale: PositiveFloat = 1.0) -> None:
        if scale <= 0:
            raise ValueError(f"the scale of the told time is {scale}; set it above 0, such as 1 or 1000")
        self.scale = scale

    def __call__(self, sigma: Tensor) -> Tensor:
        """From 0 to scale."""
        return self.scale * sigma / (1 + sigma)


class TableStep:
    """The step t of a beta table, from 0; between two noise levels of the table a fraction, linear in ln sigma.

    Beyond the ends of the table it is the first or the last step.

    Args:
        table: the table that the training levels are drawn from.
    """

    def __init__(self, *, table: BetaTable) -> None:
        self.table = table
        self._step = Curve(table.sigmas.log(), torch.arange(table.steps, dtype=torch.float64, device="cpu"))

    def __call__(self, sigma: Tensor) -> Tensor:
        """From 0 to table.steps − 1."""
        return self._step(sigma.double().log()).to(sigma.dtype)
