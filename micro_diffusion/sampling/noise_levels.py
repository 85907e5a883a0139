"""Lists of noise levels for a sampler to walk down."""

from __future__ import annotations

import torch
from torch import Tensor


def karras(steps: int, *, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    """Karras et al. 2022, eq. 5 -> (steps + 1,) float64, from sigma_max down to sigma_min, then 0.

    One step goes from sigma_max straight to 0.
    Raises ValueError for fewer than one step.
    """
    check_steps(steps, rho)
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    highest, lowest = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    levels = (highest + ramp * (lowest - highest)) ** rho
    return torch.cat([levels, levels.new_zeros(1)])


class KarrasLevels:
    """What samplers have in common that walk down the levels of `karras`.

    Args:
        steps: noise levels above zero.
        rho: bends the levels, see `karras`.

    Raises:
        ValueError: for fewer than one step, or a rho that bends nothing.
    """

    def __init__(self, *, steps: int, rho: float) -> None:
        check_steps(steps, rho)
        self.steps, self.rho = steps, rho

    def noise_levels(self, *, sigma_min: float, sigma_max: float) -> list[float]:
        """The levels above zero, from the highest down."""
        return karras(self.steps, sigma_min=sigma_min, sigma_max=sigma_max, rho=self.rho).tolist()[:-1]


def check_steps(steps: int, rho: float) -> None:
    """Raise ValueError for fewer than one step or a rho that bends nothing."""
    if steps < 1:
        raise ValueError(f"the number of sampling steps is {steps}; choose at least 1")
    if rho <= 0:
        raise ValueError(f"rho of the noise levels is {rho}; choose a positive number, such as 7")
