"""An image of any size, enlarged by a super-resolution model. Legend: H W pixels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional

from micro_diffusion.diffusion.low_resolution import LowResolution
from micro_diffusion.sampling.pipeline import Pipeline


def enlarged(pipeline: Pipeline, image: Tensor, generate: Callable[..., Tensor]) -> Tensor:
    """uint8 (3, H, W) -> uint8 (3, factor·H, factor·W).

    Sides that the network does not take are continued by repeating the border, which is cut off again.

    Args:
        pipeline: of a super-resolution model.
        image: to be enlarged.
        generate: makes one image of the keyword arguments `image` and `resolution`, as `Pipeline.generate` does.

    Raises:
        ValueError: for a pipeline that does not enlarge images.
    """
    conditioner: Any = pipeline.image_conditioner
    if not isinstance(conditioner, LowResolution):
        made = "none" if conditioner is None else type(conditioner).__name__
        raise ValueError(
            f"this run does not enlarge images (its image_conditioner is {made}); use one that was trained with "
            "image_conditioner=low_resolution"
        )
    factor, cell = conditioner.factor, pipeline.autoencoder.downsampling
    multiple = math.lcm(cell * pipeline.backbone.patch_size, cell * factor) // factor
    height, width = image.shape[-2:]
    padding = (0, -width % multiple, 0, -height % multiple)
    padded = functional.pad(image[None].float(), padding, mode="replicate").to(image.dtype)
    size = (padded.shape[-2] * factor, padded.shape[-1] * factor)
    large = generate(image=padded, resolution=size)[0]
    return large[:, : height * factor, : width * factor]
