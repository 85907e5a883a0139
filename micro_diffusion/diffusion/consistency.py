"""Multistep consistency: a denoiser that goes through a whole segment of noise levels in one Euler step.

Heek, Hoogeboom & Salimans 2024, "Multistep Consistency Models", arXiv 2403.06807, of which one segment is the
consistency model of Song et al. 2023, arXiv 2303.01469. In the coordinates x + sigma·n their DDIM step is Euler's.
Legend: B batch, C latent channels, h w latent cells.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from micro_diffusion.diffusion.denoiser import Denoiser


class Place(NamedTuple):
    """Where on the way from noise to an image each sample is, as noise levels (B,) with sigma > lower >= end.

    sigma: of the sample. lower: to which the teacher goes from there. end: of the segment, to which the student goes.
    """

    sigma: Tensor
    lower: Tensor
    end: Tensor


class Segments:
    """The segments of the student's steps, each cut into steps of the teacher that are even in sigma / (1 + sigma).

    Args:
        sigmas: falling noise levels between the segments, of which the last is 0: those that the student samples at.
        substeps: of the teacher in each segment.

    Raises:
        ValueError: for fewer than one step of the teacher.
    """

    def __init__(self, sigmas: Sequence[float], *, substeps: int) -> None:
        if substeps < 1:
            raise ValueError(f"the teacher takes {substeps} steps in each segment; set model.substeps to at least 1")
        times = [sigma / (1 + sigma) for sigma in reversed(sigmas)]
        shares = [step / substeps for step in range(substeps)]
        grid = [low + share * (high - low) for low, high in itertools.pairwise(times) for share in shares]
        self.substeps = substeps
        self.levels = torch.tensor([*(t / (1 - t) for t in grid), sigmas[0]], dtype=torch.float64, device="cpu")

    def places(self, quantile: Tensor) -> Place:
        """Numbers (B,) in [0, 1] -> places, all levels above 0 with equal chances."""
        levels = self.levels.to(quantile.device)
        index = (quantile.double() * (len(levels) - 1)).ceil().long().clamp(1, len(levels) - 1)
        end = (index - 1) // self.substeps * self.substeps
        return Place(*(levels[at].float() for at in (index, index - 1, end)))


def consistent(student: Denoiser, teacher: Denoiser, x: Tensor, place: Place) -> Tensor:
    """The image that the student should see in x (B, C, h, w), by the teacher and by what it sees further on.

    The teacher goes from sigma to lower by Heun's method (Karras et al. 2022, Algorithm 1), and the student from there
    to the end of the segment. What leads from x to the same end in one Euler step is a mean of the images that the two
    go towards (Heek et al., Algorithm 1, there by the inverse of DDIM).
    """
    sigma, lower, end = (level.view(-1, 1, 1, 1) for level in place)
    slope = (x - teacher(x, place.sigma)) / sigma
    ends = lower <= 0  # where Heun's method has nothing to correct, and nobody is asked for a level of 0
    asked = torch.where(ends, sigma, lower)
    ahead = x + (asked - sigma) * slope
    corrected = (slope + (ahead - teacher(ahead, asked.flatten())) / asked) / 2
    slope = torch.where(ends, slope, corrected)
    toward, reached = x - sigma * slope, x + (lower - sigma) * slope
    further = student(torch.where(ends, x, reached), asked.flatten())
    share = torch.where(lower > end, (1 - end / asked) / (1 - end / sigma), 0.0)
    return toward + share * (further - toward)
