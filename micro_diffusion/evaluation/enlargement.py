"""How near an image enlarged by a super-resolution model is to the true one, beside bicubic interpolation.

Legend: B images, H pixels of a side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from micro_diffusion.data.sources.shape_scenes import caption, render, scene
from micro_diffusion.sampling.grid import captioned_grid

SHOWN = 8
"""Images in the grid."""


def enlargement_report(
    generate: Callable[[Sequence[str], Tensor], Tensor], *, side: int, factor: int, count: int, seed: int
) -> tuple[dict[str, Any], Image.Image]:
    """Enlarge shrunk images of the shapes data set and compare them with the true ones.

    Args:
        generate: captions and smaller images uint8 (B, 3, H/factor, H/factor) -> uint8 (B, 3, H, H).
        side: H.
        factor: of the sides.
        count: images, at least 1.
        seed: of the scenes, non-negative.

    Returns:
        The report, and a grid of the first images: shrunk, bicubic, enlarged and true, a row each. The report holds
        `psnr_db`: the mean over images of the peak signal-to-noise ratio, of the model and of bicubic interpolation.
    """
    drawn = [scene(seed + 1_000_000, index, pairs=0.5, held_out="include") for index in range(count)]
    true = torch.from_numpy(np.stack([render(one, side) for one in drawn])).permute(0, 3, 1, 2)
    small = functional.avg_pool2d(true.float(), factor).round()
    smooth = functional.interpolate(small, scale_factor=factor, mode="bicubic", align_corners=False)
    smooth = smooth.round().clamp(0, 255).to(torch.uint8)
    captions = [caption(one) for one in drawn]
    made = generate(captions, small.to(torch.uint8))
    rows = [functional.interpolate(small, scale_factor=float(factor)).to(torch.uint8), smooth, made, true]
    columns = min(SHOWN, count)
    names = [name for name in ("shrunk", "bicubic", "enlarged", "true") for _ in range(columns)]
    report = {"psnr_db": {"model": psnr(made, true), "bicubic": psnr(smooth, true)}, "images": count}
    return report, captioned_grid(torch.cat([row[:columns] for row in rows]), names, columns=columns)


def psnr(images: Tensor, true: Tensor) -> float:
    """Mean over images of 10·log10(255² / mean squared error), uint8 (B, 3, H, H) both; an exact image counts 100."""
    error = (images.float() - true.float()).square().flatten(1).mean(dim=1)
    return float((10 * (255**2 / error.clamp(min=255**2 * 1e-10)).log10()).mean())
