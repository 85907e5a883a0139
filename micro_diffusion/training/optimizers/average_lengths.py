"""Averages of the weights over any length, after training: least squares of the averages that were kept.

Karras et al. 2024, "Analyzing and improving the training dynamics of diffusion models", arXiv 2312.02696, section 3.2.
A length is the standard deviation of the moments that are averaged over, as a share of the training (`exponent_of`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from micro_diffusion.files.weight_file import read_tensors
from micro_diffusion.training.optimizers.ema import exponent_of

FOLDER = "averages"
"""Of the snapshots, in a run folder."""


class Profile(NamedTuple):
    """How much each moment counts in an average made at `step`: in proportion to moment^exponent, up to there."""

    step: float
    exponent: float


class Snapshot(NamedTuple):
    """An average that was kept. width: its length. file: of its weights."""

    step: int
    width: float
    file: Path

    @property
    def profile(self) -> Profile:
        """Of its moments."""
        return Profile(float(self.step), exponent_of(self.width))


def overlap(first: Profile, second: Profile) -> float:
    """∫ p·q over all moments, of profiles p(τ) = (γ + 1)·τ^γ / t^(γ + 1) on [0, t] (appendix C.2 there)."""
    early, late = sorted((first, second))
    a, b = early.exponent, late.exponent
    return (a + 1) * (b + 1) / (a + b + 1) * (early.step / late.step) ** b / late.step


def shares(kept: Sequence[Profile], wanted: Profile) -> tuple[Tensor, float]:
    """The combination of kept profiles that comes nearest to another.

    Args:
        kept: at least one.
        wanted: the other.

    Returns:
        For each what it is multiplied with, (N,) float64, which sum to 1, so that weights that never changed come back
        as they were; and how far it is from what is wanted, as a share of that (root of the mean square).
    """
    scale = wanted.step
    products = torch.tensor([[overlap(p, q) * scale for q in kept] for p in kept], dtype=torch.float64)
    targets = torch.tensor([overlap(p, wanted) * scale for p in kept], dtype=torch.float64)
    ones = torch.ones(len(kept), 1, dtype=torch.float64)
    system = torch.cat([torch.cat([products, ones], 1), torch.cat([ones.T, torch.zeros(1, 1).double()], 1)])
    right = torch.cat([targets, torch.ones(1, dtype=torch.float64)])
    found = torch.linalg.lstsq(system, right[:, None], driver="gelsd").solution[:-1, 0]
    own = overlap(wanted, wanted) * scale
    apart = float(own - 2 * found @ targets + found @ products @ found)
    return found, math.sqrt(max(apart, 0.0) / own)


def snapshots(run: Path) -> list[Snapshot]:
    """Those of a run, in order.

    Raises:
        FileNotFoundError: when it kept none.
    """
    found = []
    for file in sorted((run / FOLDER).glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            said = opened.metadata() or {}
        found.append(Snapshot(int(said["step"]), float(said["width"]), file))
    if not found:
        raise FileNotFoundError(
            f"{run / FOLDER} holds no averages to combine; train with algorithms=ema_lengths, which keeps some"
        )
    return sorted(found)


def averaged(kept: Sequence[Snapshot], width: float, step: int | None = None) -> tuple[dict[str, Tensor], float]:
    """The average of a length, of the training up to a step, and how far its profile is from the right one.

    Args:
        kept: the snapshots of a run.
        width: the length, above 0 and below 0.289.
        step: None for the last one that was kept.

    Returns:
        Weights by name, fp32, and the share of `shares`.

    Raises:
        ValueError: for a length that no profile has, or snapshots of several networks.
    """
    at = max(snapshot.step for snapshot in kept) if step is None else step
    found, apart = shares([snapshot.profile for snapshot in kept], Profile(at, exponent_of(width)))
    total: dict[str, Tensor] = {}
    for share, snapshot in zip(found.tolist(), kept, strict=True):
        weights = read_tensors(snapshot.file)
        if total and weights.keys() != total.keys():
            raise ValueError(f"{snapshot.file} holds the weights of another network than the others; remove it")
        for name, weight in weights.items():
            total[name] = total.get(name, torch.zeros(())) + share * weight.float()
    return total, apart
