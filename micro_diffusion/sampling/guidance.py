"""Guidance away from a weaker denoiser: one without the condition, one of a weaker run, or one of fewer blocks.

Ho & Salimans 2022, arXiv 2207.12598 (classifier-free guidance); Karras et al. 2024, arXiv 2406.02507 (autoguidance);
Park et al. 2025, arXiv 2510.21986 (path-drop guidance).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from micro_diffusion.backbone.around_route import AroundRoute
from micro_diffusion.backbone.backbone import Backbone, PreparedText, PreparesText
from micro_diffusion.condition import Condition
from micro_diffusion.diffusion.denoiser import Denoiser, NoiseLevel
from micro_diffusion.diffusion.objective import Objective

EVERY_LEVEL = (0.0, math.inf)
"""The guidance interval of plain guidance."""

MOST_GUIDANCE = 1000.0
"""Beyond it nothing is left of an image, and far beyond it numbers overflow; useful scales are below 30."""


class WeakerRun(NamedTuple):
    """Objective and backbone of a run with less training or a smaller network, which takes the same conditions.

    is_conditional: whether it is shown the condition.
    """

    objective: Objective
    backbone: Backbone
    is_conditional: bool = True


ROUTE = "route"
"""The name of the weaker run that is the run itself, without its route and without the condition."""


def without_route(objective: Objective, backbone: Backbone) -> WeakerRun:
    """The weak denoiser of path-drop guidance; ValueError for a backbone that was not trained for it."""
    weak: Any = AroundRoute(backbone)
    return WeakerRun(objective, weak, is_conditional=False)


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
    rescale: float = 0.0,
    weaker: WeakerRun | None = None,
) -> Denoiser:
    """weak + scale·(cond − weak), where weak is unconditional, from the same network call on a batch of 2B.

    Guiding the denoised image equals guiding the network's raw output, since an objective's map is affine in it.

    Args:
        objective: makes denoisers of the backbone.
        backbone: the network.
        text: B captions.
        scale: 0 is weak, 1 conditional (each without the other's cost), more is stronger guidance.
        negative: B conditions that take the place of the null condition; None for that.
        interval: noise levels low < sigma <= high that are guided; the others are conditional, at half the cost
            (Kynkäänniemi et al. 2024, arXiv 2404.07724).
        sigmas: every noise level that will be asked for, so that work on them is done at once; or none.
        rescale: how far the guided image gets the deviation of the conditional one, see `guide`.
        weaker: a run whose denoiser is weak in place of the unconditional one, with the same condition or none; it
            costs a call of its own network.

    Raises:
        ValueError: for a scale that is no number, an interval that holds no noise level, or none of `sigmas`, and for
            a rescaling outside [0, 1], or one, an interval or a weaker run where nothing is guided.
    """
    check_guidance(scale, interval, rescale, weaker=weaker is not None, negative=negative is not None, sigmas=sigmas)
    levels = _levels(objective, text, sigmas)
    if weaker is not None:
        conditional = objective.denoiser(backbone, prepared(backbone, text, levels))
        shown = text if weaker.is_conditional else text.null()
        theirs = prepared(weaker.backbone, shown, _levels(weaker.objective, text, sigmas))
        inside = _away_from(weaker.objective.denoiser(weaker.backbone, theirs), conditional, scale, rescale)
        return inside if interval == EVERY_LEVEL else _within(interval, inside, conditional)
    guided = scale not in (0, 1)
    if negative is None:
        shown = prepared(backbone, text if scale else text.null(), levels, null_rows=len(text.tokens) if guided else 0)
    else:
        shown = prepared(backbone, text.after(negative) if guided else text if scale else negative, levels)
    inside = objective.denoiser(backbone, shown)
    if guided:
        inside = _guided(inside, scale, rescale)
    if interval == EVERY_LEVEL:
        return inside
    shares = guided and negative is None and isinstance(shown, PreparedText)
    conditional = shown.without_null() if shares else prepared(backbone, text, levels)
    return _within(interval, inside, objective.denoiser(backbone, conditional))


def guide(weak: Tensor, strong: Tensor, scale: float, rescale: float = 0.0) -> Tensor:
    """weak + scale·(strong − weak), both (B, C, h, w), then with the deviation of `strong` as far as `rescale` says.

    rescale: phi of Lin et al. 2023, arXiv 2305.08891, eq. 15 and 16, here for clean images: 0 leaves the guided image
    as it is, 1 gives it the deviation that each sample has without guidance.
    """
    guided = weak + scale * (strong - weak)
    if rescale == 0:
        return guided
    every_cell = tuple(range(1, guided.ndim))
    ratio = strong.std(dim=every_cell, keepdim=True) / guided.std(dim=every_cell, keepdim=True)
    return guided * (1 - rescale + rescale * ratio)


def _levels(objective: Objective, text: Condition, sigmas: Sequence[float]) -> Tensor | None:
    """What a backbone of this objective is told of the noise levels that will be asked for."""
    return objective.level(torch.tensor(sigmas, device=text.tokens.device)) if sigmas else None


def check_guidance(
    scale: float,
    interval: tuple[float, float],
    rescale: float,
    *,
    weaker: bool,
    negative: bool,
    sigmas: Sequence[float] = (),
) -> None:
    """Raise ValueError for settings that mean nothing, or have no effect beside others; see `guided_denoiser`."""
    low, high = interval
    if not abs(scale) <= MOST_GUIDANCE:  # nan is not, either
        raise ValueError(
            f"the guidance scale is {scale:g}; choose one from -{MOST_GUIDANCE:g} to {MOST_GUIDANCE:g}, such as 5"
        )
    if not 0 <= low < high:
        raise ValueError(f"the guidance interval is {low:g} to {high:g}; choose two noise levels with 0 <= low < high")
    if scale == 1 and interval != EVERY_LEVEL:
        raise ValueError("a guidance interval has no effect with a guidance scale of 1; leave one of them out")
    if sigmas and not any(low < sigma <= high for sigma in sigmas):
        raise ValueError(
            f"the guidance interval {low:g} to {high:g} holds none of the noise levels that are sampled at, from "
            f"{min(sigmas):g} to {max(sigmas):g}; choose one that does"
        )
    if not 0 <= rescale <= 1:
        raise ValueError(f"the guidance rescaling is {rescale}; choose a number from 0 to 1, such as 0.7")
    if rescale and scale in (0, 1):
        raise ValueError(f"the guidance rescaling has no effect with a guidance scale of {scale:g}; leave one out")
    if negative and scale == 1:
        raise ValueError("a negative prompt has no effect with a guidance scale of 1; raise it, or leave it out")
    if negative and weaker:
        raise ValueError("a negative prompt has no effect beside a weaker run; leave one of them out")
    if weaker and scale == 1:
        raise ValueError("a weaker run has no effect with a guidance scale of 1; choose a higher one, or leave it out")


def _guided(both: Denoiser, scale: float, rescale: float) -> Denoiser:
    """At every noise level; `both` is of B null captions and then B others."""

    def denoise(x: Tensor, sigma: NoiseLevel) -> Tensor:
        levels = sigma.expand(len(x)).repeat(2) if isinstance(sigma, Tensor) else sigma
        uncond, cond = both(torch.cat([x, x]), levels).chunk(2)
        return guide(uncond, cond, scale, rescale)

    return denoise


def _away_from(weak: Denoiser, strong: Denoiser, scale: float, rescale: float) -> Denoiser:
    """At every noise level, by a call of each."""
    return lambda x, sigma: guide(weak(x, sigma), strong(x, sigma), scale, rescale)


def _within(interval: tuple[float, float], inside: Denoiser, outside: Denoiser) -> Denoiser:
    """One denoiser at the noise levels low < sigma <= high, another at the others."""
    low, high = interval

    def denoise(x: Tensor, sigma: NoiseLevel) -> Tensor:
        if isinstance(sigma, Tensor):
            guide = ((low < sigma) & (sigma <= high)).view(-1, 1, 1, 1)
            return torch.where(guide.to(x.device), inside(x, sigma), outside(x, sigma))
        return (inside if low < sigma <= high else outside)(x, sigma)

    return denoise
