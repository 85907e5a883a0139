"""Distributions of the noise levels that a network is trained at.

Each is a function of a standard normal draw z, which the caller makes, so that it can follow from (seed, step, rank)
and be spread evenly in evaluation: the quantile Phi(z), put into the inverse of a distribution function, has that
distribution. s = sigma / (1 + sigma) is the time of `LinearInterpolation`.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from micro_diffusion.bounds import PositiveFloat
from micro_diffusion.diffusion.curve import Curve
from micro_diffusion.diffusion.schedule import BetaTable, Schedule


class TrainingLevels(Protocol):
    """A distribution of noise levels."""

    @property
    def span(self) -> tuple[float, float] | None:
        """Lowest and highest noise level, for distributions that have them above 0 and below infinity."""
        ...

    def __call__(self, level_normal: Tensor) -> Tensor:
        """Standard normal draws (B,) -> sigma (B,), rising with the draw."""
        ...


def _log_shift(shift: float) -> float:
    if shift <= 0:
        raise ValueError(f"shift of the training levels is {shift}; set it above 0, to 1 for none")
    return math.log(shift)


class LogNormal:
    """ln sigma ~ N(mean, std²) (Karras et al. 2022, Table 1).

    Args:
        mean: P_mean of the paper.
        std: P_std of the paper.

    Raises:
        ValueError: for a deviation below 0.
    """

    span = None

    def __init__(self, *, mean: float = -1.2, std: float = 1.2) -> None:
        if std < 0:
            raise ValueError(f"std of the training levels is {std}; set it to 0 or more")
        self.mean, self.std = mean, std

    def __call__(self, level_normal: Tensor) -> Tensor:
        """exp(mean + std·z)."""
        return (level_normal * self.std + self.mean).exp()


class LogitNormal(LogNormal):
    """logit s ~ N(mean, std²), then shifted towards more noise (Esser et al. 2024, arXiv 2403.03206, eq. 19 and 23).

    Since s / (1 − s) is sigma, this is a log-normal distribution of sigma, and the shift a factor of sigma.

    Args:
        mean: of logit s.
        std: of logit s.
        shift: sqrt(m / n), for images of m patches where n were right without a shift; 1 shifts nothing.

    Raises:
        ValueError: for a deviation below 0, or a shift that is not above 0.
    """

    def __init__(self, *, mean: float = 0.0, std: PositiveFloat = 1.0, shift: PositiveFloat = 1.0) -> None:
        super().__init__(mean=mean + _log_shift(shift), std=std)


class Laplace:
    """ln sigma has the density exp(−|ln sigma − mean| / scale) / (2·scale) (Hang et al. 2024, arXiv 2407.03297).

    A sharper peak than a normal distribution's, over tails that still reach the levels where layouts are decided.

    Args:
        mean: of ln sigma; −1/2 of the paper's mean of log SNR, for data of unit deviation.
        scale: of ln sigma, half of the paper's; the deviation is sqrt(2) times it.
        shift: factor of every sigma, see `LogitNormal`.

    Raises:
        ValueError: for a scale or a shift that is not above 0.
    """

    span = None

    def __init__(self, *, mean: float = 0.0, scale: PositiveFloat, shift: PositiveFloat = 1.0) -> None:
        if scale <= 0:
            raise ValueError(f"scale of the training levels is {scale}; set it above 0")
        self.mean, self.scale = mean + _log_shift(shift), scale

    def __call__(self, level_normal: Tensor) -> Tensor:
        """The inverse of the distribution function at Phi(z), by the tail that is nearer, which keeps its digits."""
        log_tail = torch.special.log_ndtr(-level_normal.double().abs()) + math.log(2)
        return (self.mean - self.scale * level_normal.sign() * log_tail).exp().to(level_normal.dtype)


class Beta:
    """s ~ Beta(a, b).

    Args:
        a: above 1, fewer levels with little noise.
        b: above 1, fewer levels with much noise.

    Raises:
        ValueError: when a or b is not above 0.
    """

    span = None

    def __init__(self, *, a: PositiveFloat, b: PositiveFloat) -> None:
        if a <= 0 or b <= 0:
            raise ValueError(f"the training levels are given {a=}, {b=} of a Beta distribution; set both above 0")
        reach = 40 / min(a, b, 1.0)  # in ln sigma; the tails fall with exp(−a·|ln sigma|) and exp(−b·|ln sigma|)
        cpu = {"dtype": torch.float64, "device": "cpu"}  # also while networks are made on the meta device
        log_sigma = torch.linspace(-reach, reach, 2**15 + 1, **cpu)
        density = torch.exp(a * log_sigma - (a + b) * torch.nn.functional.softplus(log_sigma))
        areas = (density[1:] + density[:-1]) / 2
        below, above = areas.cumsum(0), areas.flip(0).cumsum(0).flip(0)
        low, high = below[:-1] / below[-1], above[1:] / below[-1]  # the quantile and what it lacks to 1, both exact
        normal = torch.where(low < 0.5, torch.special.ndtri(low), -torch.special.ndtri(high))
        inside = normal.isfinite() & (normal.abs() < 10)
        self._log_sigma = Curve(normal[inside], log_sigma[1:-1][inside])

    def __call__(self, level_normal: Tensor) -> Tensor:
        """The inverse of the distribution function at Phi(z), tabulated."""
        return self._log_sigma(level_normal).exp().to(level_normal.dtype)


class UniformTime:
    """Noise levels of a schedule, at times spread evenly over [0, 1].

    Args:
        schedule: gives sigma for a time.
    """

    def __init__(self, *, schedule: Schedule) -> None:
        self.schedule = schedule

    @property
    def span(self) -> tuple[float, float]:
        """The schedule's ends."""
        lowest, highest = self.schedule.sigma(torch.tensor([0.0, 1.0], dtype=torch.float64, device="cpu")).tolist()
        return lowest, highest

    @property
    def table(self) -> BetaTable | None:
        """The schedule, where it is a table."""
        return self.schedule if isinstance(self.schedule, BetaTable) else None

    def __call__(self, level_normal: Tensor) -> Tensor:
        """sigma(Phi(z))."""
        return self.schedule.sigma(torch.special.ndtr(level_normal.double())).to(level_normal.dtype)
