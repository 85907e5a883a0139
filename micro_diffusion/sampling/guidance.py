"""Classifier-free guidance: Ho & Salimans 2022, arXiv 2207.12598."""

from __future__ import annotations

import torch
from torch import Tensor

from micro_diffusion.backbone.backbone import Backbone
from micro_diffusion.batch import TextCondition
from micro_diffusion.diffusion.denoiser import Denoiser
from micro_diffusion.diffusion.objective import Objective


def null_text(text: TextCondition) -> TextCondition:
    """The unconditional counterpart of `text`: the same rows, all zero."""
    return text._replace(tokens=torch.zeros_like(text.tokens))


def guided_denoiser(objective: Objective, backbone: Backbone, text: TextCondition, scale: float) -> Denoiser:
    """uncond + scale·(cond − uncond), both from one network call on a batch of 2B.

    scale: 0 is unconditional, 1 conditional (each without the other's cost), more is stronger guidance.
    Guiding the denoised picture equals guiding the network's raw output, since both objectives' maps are affine in it.
    """
    if scale == 1:
        return objective.denoiser(backbone, text)
    null = null_text(text)
    if scale == 0:
        return objective.denoiser(backbone, null)
    mask = None if text.mask is None else torch.cat([text.mask, text.mask])
    both = objective.denoiser(backbone, TextCondition(torch.cat([null.tokens, text.tokens]), mask))

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        level = torch.as_tensor(sigma, device=x.device).expand(x.shape[0]).repeat(2)
        uncond, cond = both(torch.cat([x, x]), level).chunk(2)
        return uncond + scale * (cond - uncond)

    return denoise
