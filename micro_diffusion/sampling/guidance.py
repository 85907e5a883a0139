"""Classifier-free guidance: Ho & Salimans 2022, arXiv 2207.12598."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from micro_diffusion.backbone.backbone import Backbone
from micro_diffusion.batch import TextCondition
from micro_diffusion.diffusion.denoiser import Denoiser
from micro_diffusion.diffusion.objective import Objective

EVERY_LEVEL = (0.0, math.inf)
"""The guidance interval of plain guidance."""


def null_text(text: TextCondition) -> TextCondition:
    """The unconditional counterpart of `text`: the same rows, all zero."""
    return text._replace(tokens=torch.zeros_like(text.tokens))


def guided_denoiser(
    objective: Objective,
    backbone: Backbone,
    text: TextCondition,
    scale: float,
    *,
    interval: tuple[float, float] = EVERY_LEVEL,
) -> Denoiser:
    """uncond + scale·(cond − uncond), both from one network call on a batch of 2B.

    Guiding the denoised picture equals guiding the network's raw output, since both objectives' maps are affine in it.

    Args:
        objective: makes denoisers of the backbone.
        backbone: the network.
        text: B captions.
        scale: 0 is unconditional, 1 conditional (each without the other's cost), more is stronger guidance.
        interval: noise levels low < sigma <= high that are guided; the others are conditional, at half the cost
            (Kynkäänniemi et al. 2024, arXiv 2404.07724).

    Raises:
        ValueError: for an interval that holds no noise level.
    """
    low, high = interval
    if not 0 <= low < high:
        raise ValueError(f"the guidance interval is {low:g} to {high:g}; choose two noise levels with 0 <= low < high")
    conditional = objective.denoiser(backbone, text)
    if scale == 1:
        return conditional
    null = null_text(text)
    mask = None if text.mask is None else torch.cat([text.mask, text.mask])
    both = objective.denoiser(backbone, TextCondition(torch.cat([null.tokens, text.tokens]), mask))

    def guided(x: Tensor, sigma: Tensor) -> Tensor:
        level = torch.as_tensor(sigma, device=x.device).expand(x.shape[0]).repeat(2)
        uncond, cond = both(torch.cat([x, x]), level).chunk(2)
        return uncond + scale * (cond - uncond)

    inside = objective.denoiser(backbone, null) if scale == 0 else guided
    if interval == EVERY_LEVEL:
        return inside

    def within(x: Tensor, sigma: Tensor) -> Tensor:
        return inside(x, sigma) if low < float(sigma) <= high else conditional(x, sigma)

    return within
