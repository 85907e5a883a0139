"""Noise schedules: noise levels sigma as a function of time, from 0 (clean) to 1 (noise).

sigma² is the noise variance over the signal variance, (1 − alpha_bar) / alpha_bar; the log-SNR is −2·ln sigma.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from micro_diffusion.bounds import OpenFraction, PositiveInt
from micro_diffusion.diffusion.curve import Curve

BetaKind = Literal["cosine", "linear", "quadratic", "sigmoid"]

HOST: dict[str, Any] = {"dtype": torch.float64, "device": "cpu"}
"""Tables are numbers, whatever device networks are being built on."""


class Schedule(Protocol):
    """A noise level for every time."""

    def sigma(self, time: Tensor) -> Tensor:
        """Times in [0, 1] -> noise levels, float64, of the same shape; rising."""
        ...


@dataclass(frozen=True)
class CosineLogSNR:
    """Cosine schedule in continuous time: Nichol & Dhariwal 2021, arXiv 2102.09672, eq. 17, with SNR at most 1e5.

    At time 1 the log-SNR is −74.7, so an objective with it states a `sigma_max` for sampling.
    """

    def log_snr(self, time: Tensor) -> Tensor:
        """−ln(1 / cos²(pi/2 · (time + 0.008) / 1.008) − 1)."""
        cosine = torch.cos(math.pi / 2 * (time.double() + 0.008) / 1.008)
        return -(cosine**-2 - 1).clamp(min=1e-5).log()

    def sigma(self, time: Tensor) -> Tensor:
        """exp(−log-SNR / 2)."""
        return torch.exp(-self.log_snr(time) / 2)


@dataclass(frozen=True)
class LinearLogSNR:
    """The linear beta schedule of DDPM in continuous time: −ln(expm1(1e-4 + 10·time²)) (Ho et al. 2020, section 4)."""

    def log_snr(self, time: Tensor) -> Tensor:
        """From 9.2 down to −10."""
        return -torch.log(torch.expm1(1e-4 + 10 * time.double() ** 2))

    def sigma(self, time: Tensor) -> Tensor:
        """exp(−log-SNR / 2)."""
        return torch.exp(-self.log_snr(time) / 2)


@dataclass(frozen=True)
class BetaTable:
    """A table of betas, the noise variance that each of `steps` steps adds: Ho et al. 2020, eq. 2.

    cosine: Nichol & Dhariwal 2021, eq. 17, betas between 1e-4 and 0.9999. linear: Ho et al. 2020, section 4. quadratic:
    linear in the root of beta (Rombach et al. 2022, "scaled linear"). sigmoid: logits from −6 to 6 (Xu et al. 2022).

    Args:
        kind: the rule for the betas.
        steps: number of betas.
        beta_start: first beta, of all but the cosine table.
        beta_end: last beta, of all but the cosine table.

    Raises:
        ValueError: for fewer than two steps, betas that do not rise within (0, 1), or ends given to a cosine table.
    """

    kind: BetaKind
    steps: PositiveInt = 1000
    beta_start: OpenFraction = 1e-4
    beta_end: OpenFraction = 0.02

    def __post_init__(self) -> None:
        if self.kind not in (kinds := ("cosine", "linear", "quadratic", "sigmoid")):
            raise ValueError(f"the kind of a beta table is {self.kind!r}; choose one of {', '.join(kinds)}")
        if self.steps < 2 or not 0 < self.beta_start < self.beta_end < 1:
            raise ValueError(f"{self} is no beta table; set steps of at least 2 and 0 < beta_start < beta_end < 1")
        if self.kind == "cosine" and (self.beta_start, self.beta_end) != (1e-4, 0.02):
            raise ValueError("beta_start and beta_end have no effect on a cosine table; leave them out")

    @cached_property
    def sigmas(self) -> Tensor:
        """(steps,) float64, rising: the noise level after each step, sqrt((1 − alpha_bar) / alpha_bar)."""
        alpha_bar = torch.cumprod(1 - self.betas(), dim=0)
        return ((1 - alpha_bar) / alpha_bar).sqrt()

    @cached_property
    def _by_step(self) -> Curve:
        return Curve(torch.arange(self.steps, **HOST), self.sigmas)

    def betas(self) -> Tensor:
        """(steps,) float64."""
        if self.kind == "cosine":
            time = torch.linspace(0, 1, self.steps + 1, **HOST)
            alpha_bar = torch.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2
            return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(1e-4, 0.9999)
        start, end, ramp = self.beta_start, self.beta_end, torch.linspace(0, 1, self.steps, **HOST)
        if self.kind == "linear":
            return start + ramp * (end - start)
        if self.kind == "quadratic":
            return (math.sqrt(start) + ramp * (math.sqrt(end) - math.sqrt(start))) ** 2
        return start + torch.sigmoid(12 * ramp - 6) * (end - start)

    def sigma(self, time: Tensor) -> Tensor:
        """Of the step whose share of [0, 1] holds the time: each step has the same share."""
        return self._by_step((time.double() * self.steps).floor())
