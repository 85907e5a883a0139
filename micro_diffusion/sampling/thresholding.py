"""Wrappers of a denoiser that keep the clean image within the range of pixels: Saharia et al. 2022, arXiv 2205.11487.

For pixels in [−limit, limit]; latents have no such range. Legend: B batch, C channels, h w cells.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from micro_diffusion.diffusion.denoiser import Denoiser, NoiseLevel

DenoiserWrapper = Callable[[Denoiser], Denoiser]
"""Makes a denoiser of another; `Pipeline` takes any number of them."""


def static_thresholding(limit: float = 1.0) -> DenoiserWrapper:
    """Every value is clipped to [−limit, limit] (section 2.3, "static thresholding").

    Raises ValueError for a limit that is not above 0.
    """
    _check(limit)
    return lambda denoiser: lambda x, sigma: denoiser(x, sigma).clamp(-limit, limit)


def dynamic_thresholding(percentile: float = 0.95, limit: float = 1.0) -> DenoiserWrapper:
    """A sample whose values go further is clipped at its own percentile, then scaled into the range (section 2.3).

    Strong guidance drives many values out of the range at once; clipping alone saturates them all.

    Args:
        percentile: share of a sample's absolute values that are left as they are, before scaling.
        limit: end of the range.

    Raises:
        ValueError: for a percentile outside (0, 1), or a limit that is not above 0.
    """
    _check(limit)
    if not 0 < percentile < 1:
        raise ValueError(f"the percentile of dynamic thresholding is {percentile}; set it between 0 and 1")

    def wrapper(denoiser: Denoiser) -> Denoiser:
        def denoise(x: Tensor, sigma: NoiseLevel) -> Tensor:
            clean = denoiser(x, sigma)
            reach = clean.abs().flatten(1).float().quantile(percentile, dim=1).clamp(min=limit).view(-1, 1, 1, 1)
            return clean.clamp(-reach, reach) * (limit / reach)

        return denoise

    return wrapper


def _check(limit: float) -> None:
    if limit <= 0:
        raise ValueError(f"the limit of thresholding is {limit}; set it above 0, to 1 for pixels in [-1, 1]")
