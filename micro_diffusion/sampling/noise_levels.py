"""Lists of noise levels for a sampler to walk down.

s = sigma / (1 + sigma) is the time of a linear interpolation between data and noise.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import torch

from micro_diffusion.bounds import OpenFraction, PositiveFloat
from micro_diffusion.diffusion.schedule import BetaTable, Schedule


@runtime_checkable
class Levels(Protocol):
    """A rule for the noise levels of any number of steps."""

    def __call__(self, steps: int, *, sigma_min: float, sigma_max: float) -> list[float]:
        """`steps` falling noise levels above 0; those of a schedule of its own need neither sigma_min nor sigma_max.

        Raises ValueError for a number of steps that it has no levels for.
        """
        ...


class Karras:
    """Karras et al. 2022, eq. 5: evenly spaced in sigma^(1/rho). One step goes from sigma_max straight to 0.

    Args:
        rho: 1 is evenly spaced in sigma; the higher, the more levels lie at little noise.

    Raises:
        ValueError: for a rho that bends nothing.
    """

    def __init__(self, *, rho: PositiveFloat = 7.0) -> None:
        if rho <= 0:
            raise ValueError(f"rho of the noise levels is {rho}; choose a positive number, such as 7")
        self.rho = rho

    def __call__(self, steps: int, *, sigma_min: float, sigma_max: float) -> list[float]:
        """From sigma_max down to sigma_min."""
        ramp = torch.linspace(0, 1, check_steps(steps), dtype=torch.float64, device="cpu")
        highest, lowest = sigma_max ** (1 / self.rho), sigma_min ** (1 / self.rho)
        return ((highest + ramp * (lowest - highest)) ** self.rho).tolist()


class Exponential:
    """Evenly spaced in ln sigma, that is in log-SNR: Lu et al. 2022, "DPM-Solver", arXiv 2206.00927, section 3.3."""

    def __call__(self, steps: int, *, sigma_min: float, sigma_max: float) -> list[float]:
        """From sigma_max down to sigma_min."""
        ramp = torch.linspace(0, 1, check_steps(steps), dtype=torch.float64, device="cpu")
        return (sigma_max * (sigma_min / sigma_max) ** ramp).tolist()


class LinearTime:
    """s_i = 1 − (i / steps)^exponent, the first replaced by `first`, as sigma = shift · s / (1 − s).

    The levels of apapiu/transformer_latent_diffusion. The shift is that of Esser et al. 2024, arXiv 2403.03206, eq. 23.

    Args:
        exponent: 1 is evenly spaced in s; below 1, more levels lie at little noise.
        first: s of the first level, below 1.
        shift: factor of every sigma, see `LogitNormal`.
        second_may_rise: accept levels of which the second lies above the first, as it does there for many steps or
            exponents above 1, and as only samplers without fresh noise can follow.

    Raises:
        ValueError: for an exponent or shift that is not above 0, or a first level that is not between 0 and 1.
    """

    def __init__(
        self,
        *,
        exponent: PositiveFloat = 1.0,
        first: OpenFraction = 0.99,
        shift: PositiveFloat = 1.0,
        second_may_rise: bool = False,
    ) -> None:
        if exponent <= 0 or shift <= 0 or not 0 < first < 1:
            raise ValueError(
                f"the noise levels are given {exponent=}, {first=}, {shift=}; set exponent and shift above 0, and "
                "first between 0 and 1"
            )
        self.exponent, self.first, self.shift, self.second_may_rise = exponent, first, shift, second_may_rise

    def __call__(self, steps: int, *, sigma_min: float, sigma_max: float) -> list[float]:
        """The same for every objective, with (1 / steps)^exponent near 1 − s at the top."""
        times = [self.first, *(1 - (i / steps) ** self.exponent for i in range(1, check_steps(steps)))]
        if steps > 1 and times[1] >= self.first and not self.second_may_rise:
            raise ValueError(
                f"the second of {steps} noise levels, s = {times[1]:g}, is not below the first, {self.first:g}; choose "
                "fewer steps, a lower exponent or a higher first level"
            )
        return [self.shift * time / (1 - time) for time in times]


class ScheduleTime:
    """Evenly spaced times of a continuous schedule, from 1 or sigma_max downwards; the last step leads to time 0.

    Saharia et al. 2022, "Imagen", arXiv 2205.11487, sample so with 256 to 1000 steps.

    Args:
        schedule: gives sigma for a time; for a `BetaTable` there is `TableSteps`.

    Raises:
        ValueError: for a table.
    """

    def __init__(self, *, schedule: Schedule) -> None:
        if isinstance(schedule, BetaTable):
            raise ValueError("a beta table has steps, not times; choose the noise levels TableSteps")
        self.schedule = schedule

    def __call__(self, steps: int, *, sigma_min: float, sigma_max: float) -> list[float]:
        """From sigma(1), or from sigma_max where the schedule goes beyond it."""
        shares = torch.arange(check_steps(steps), 0, -1, dtype=torch.float64, device="cpu") / steps
        return self.schedule.sigma(self._time_of(sigma_max) * shares).tolist()

    def _time_of(self, sigma_max: float) -> float:
        """The highest time at which the schedule is not above sigma_max, by bisection."""
        low, high = 0.0, 1.0
        if self.schedule.sigma(torch.tensor(high, device="cpu")) <= sigma_max:
            return high
        for _ in range(60):
            middle = (low + high) / 2
            above = self.schedule.sigma(torch.tensor(middle, dtype=torch.float64, device="cpu")) > sigma_max
            low, high = (low, middle) if above else (middle, high)
        return low


class TableSteps:
    """The noise levels of a beta table at whole steps t of it.

    leading: t = 0, skip, 2·skip, … with skip = floor(table.steps / steps) (Song et al. 2021, DDIM, arXiv 2010.02502,
    appendix D.2). trailing: from the last step down; linspace: from the last step down to 0 (both: Lin et al. 2023,
    arXiv 2305.08891, Table 2). With as many steps as the table has, each is the whole table.

    Args:
        table: the table that the network was trained with.
        spacing: which of its steps.
    """

    def __init__(self, *, table: BetaTable, spacing: Literal["leading", "trailing", "linspace"] = "leading") -> None:
        if spacing not in ("leading", "trailing", "linspace"):
            raise ValueError(f"the spacing of the table's steps is {spacing!r}; choose leading, trailing or linspace")
        self.table, self.spacing = table, spacing

    def __call__(self, steps: int, *, sigma_min: float, sigma_max: float) -> list[float]:
        """The same for every objective."""
        return self.table.sigmas[self.times(steps)].tolist()

    def times(self, steps: int) -> list[int]:
        """`steps` falling steps t of the table.

        Raises ValueError for more steps than the table has.
        """
        whole = self.table.steps
        if check_steps(steps) > whole:
            raise ValueError(f"{steps} sampling steps are more than the beta table has; choose at most {whole}")
        if self.spacing == "leading":
            return [i * (whole // steps) for i in reversed(range(steps))]
        if self.spacing == "trailing":
            return [round(whole - i * whole / steps) - 1 for i in range(steps)]
        return [round((whole - 1) * (1 - i / max(steps - 1, 1))) for i in range(steps)]


def check_steps(steps: int) -> int:
    """The number of steps; raises ValueError for fewer than one."""
    if steps < 1:
        raise ValueError(f"the number of sampling steps is {steps}; choose at least 1")
    return steps


def check_sigmas_without_noise(sigmas: Sequence[float]) -> list[float]:
    """As `check_sigmas`, for samplers that add no noise: they can also go up from the first level to the second."""
    sigmas = list(sigmas)
    check_sigmas([*sorted(sigmas[:2], reverse=True), *sigmas[2:]] if len(sigmas) > 2 else sigmas)
    return sigmas


def check_sigmas(sigmas: Sequence[float]) -> list[float]:
    """The noise levels as a list; raises ValueError unless they fall and the last is 0."""
    sigmas = list(sigmas)
    if len(sigmas) < 2 or sigmas[-1] != 0 or not math.isfinite(sigmas[0]):
        raise ValueError(f"{len(sigmas)} noise levels do not lead to 0; give at least one above 0, and 0 as the last")
    for high, low in itertools.pairwise(sigmas):
        if not high > low:
            raise ValueError(
                f"the noise levels do not fall from {high:g} to {low:g}; give each once, the highest first"
            )
    return sigmas
