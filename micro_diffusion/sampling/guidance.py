"""Classifier-free guidance: Ho & Salimans 2022, arXiv 2207.12598."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from micro_diffusion.backbone.backbone import Backbone, PreparedText, PreparesText
from micro_diffusion.condition import Condition
from micro_diffusion.diffusion.denoiser import Denoiser, NoiseLevel
from micro_diffusion.diffusion.objective import Objective

EVERY_LEVEL = (0.0, math.inf)
"""The guidance interval of plain guidance."""


def prepared(backbone: Backbone, text: Condition, levels: Tensor | None, null_rows: int = 0) -> Any:
    """`null_rows` null captions and then those of `text`, with the work on them done where the backbone can do that.

    levels: noise levels (S,) for which work may be done as well, when they are known.
    null_rows: 0, or as many as `text` has rows.
    """
    if isinstance(backbone, PreparesText):
        return backbone.prepare(text, null_rows=null_rows, levels=levels)
    if not null_rows:
        return text
    return text.after_null()


def guided_denoiser(
    objective: Objective,
    backbone: Backbone,
    text: Condition,
    scale: float,
    *,
    negative: Condition | None = None,
    interval: tuple[float, float] = EVERY_LEVEL,
    sigmas: Sequence[float] = (),
) -> Denoiser:
    """uncond + scale·(cond − uncond), both from one network call on a batch of 2B.

    Guiding the denoised image equals guiding the network's raw output, since an objective's map is affine in it.

    Args:
        objective: makes denoisers of the backbone.
        backbone: the network.
        text: B captions.
        scale: 0 is unconditional, 1 conditional (each without the other's cost), more is stronger guidance.
        negative: B conditions that take the place of the null condition; None for that.
        interval: noise levels low < sigma <= high that are guided; the others are conditional, at half the cost
            (Kynkäänniemi et al. 2024, arXiv 2404.07724).
        sigmas: every noise level that will be asked for, so that work on them is done at once; or none.

    Raises:
        ValueError: for a scale that is no number, or an interval that holds no noise level, or none of `sigmas`.
    """
    low, high = interval
    if not math.isfinite(scale):
        raise ValueError(f"the guidance scale is {scale}; choose a finite number, such as 5")
    if not 0 <= low < high:
        raise ValueError(f"the guidance interval is {low:g} to {high:g}; choose two noise levels with 0 <= low < high")
    if sigmas and not any(low < sigma <= high for sigma in sigmas):
        raise ValueError(
            f"the guidance interval {low:g} to {high:g} holds none of the noise levels that are sampled at, from "
            f"{min(sigmas):g} to {max(sigmas):g}; choose one that does"
        )
    levels = objective.level(torch.tensor(sigmas, device=text.tokens.device)) if sigmas else None
    guided = scale not in (0, 1)
    if negative is None:
        shown = prepared(backbone, text if scale else text.null(), levels, null_rows=len(text.tokens) if guided else 0)
    else:
        shown = prepared(backbone, text.after(negative) if guided else text if scale else negative, levels)
    inside = objective.denoiser(backbone, shown)
    if guided:
        inside = _guided(inside, scale)
    if scale == 1 or interval == EVERY_LEVEL:
        return inside
    shares = guided and negative is None and isinstance(shown, PreparedText)
    conditional = shown.without_null() if shares else prepared(backbone, text, levels)
    return _within(interval, inside, objective.denoiser(backbone, conditional))


def _guided(both: Denoiser, scale: float) -> Denoiser:
    """At every noise level; `both` is of B null captions and then B others."""

    def denoise(x: Tensor, sigma: NoiseLevel) -> Tensor:
        levels = sigma.expand(len(x)).repeat(2) if isinstance(sigma, Tensor) else sigma
        uncond, cond = both(torch.cat([x, x]), levels).chunk(2)
        return uncond + scale * (cond - uncond)

    return denoise


def _within(interval: tuple[float, float], inside: Denoiser, outside: Denoiser) -> Denoiser:
    """One denoiser at the noise levels low < sigma <= high, another at the others."""
    low, high = interval

    def denoise(x: Tensor, sigma: NoiseLevel) -> Tensor:
        if isinstance(sigma, Tensor):
            guide = ((low < sigma) & (sigma <= high)).view(-1, 1, 1, 1)
            return torch.where(guide.to(x.device), inside(x, sigma), outside(x, sigma))
        return (inside if low < sigma <= high else outside)(x, sigma)

    return denoise
