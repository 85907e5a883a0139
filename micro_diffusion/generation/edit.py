"""A pipeline prepared to start from an image, in the way that its run allows.

A run that was trained on images takes them as it was trained; any other is started from the noised image (a strength),
or inpaints by RePaint (a mask or a region).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from micro_diffusion.backbone.class_token import class_token_of
from micro_diffusion.generation.given import ImageSource, fitted, fitted_mask, region_mask
from micro_diffusion.generation.recipe import Recipe
from micro_diffusion.sampling.from_image import FromImage
from micro_diffusion.sampling.given_image import GivenImage
from micro_diffusion.sampling.pipeline import Pipeline
from micro_diffusion.sampling.repaint import RePaint

RESAMPLINGS = 5
"""Of inpainting without training, where none are asked for."""


@dataclass(frozen=True)
class Edit:
    """arguments: of `Pipeline.generate`, for runs trained on images. given: its known pixels are kept."""

    arguments: dict[str, Any] = field(default_factory=dict)
    given: GivenImage | None = None

    def restored(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) with the known pixels as they were given."""
        return images if self.given is None else self.given.restored(images)


def prepare(pipeline: Pipeline, recipe: Recipe, image: ImageSource | None, mask: ImageSource | None) -> Edit:
    """Give the pipeline, a copy, the sampler that starts from the image; says what else generating needs.

    Raises:
        ValueError: for an image, mask or setting that does not fit or has no effect.
    """
    trained = pipeline.image_conditioner is not None
    _refuse_without_effect(recipe, image, mask, trained=trained)
    if image is None:
        return Edit()
    if class_token_of(pipeline.backbone) is not None:
        raise ValueError(
            "an image is given, but this run denoises a class token with its images, which a given one has not; leave "
            "the image out, or choose a run with backbone.class_token=0"
        )
    size = recipe.resolution
    region = None if mask is None else fitted_mask(mask, image, size)
    if recipe.region is not None:
        region = region_mask(recipe.region, size)
    if pipeline.image_conditioner is not None:
        given = fitted(image, pipeline.image_conditioner.given_pixels(size))
        return Edit(arguments={"image": given, "region": region})
    cells, pixels = pipeline.latent_size(size), fitted(image, size)[None]
    device = pipeline.backbone.parameter_groups()[0]["parameters"][0].device
    with torch.no_grad():
        latents = pipeline.autoencoder.encode(pixels.to(device) / 127.5 - 1, sample=False).float()
    strength = 1.0 if recipe.strength is None else recipe.strength
    if region is None:
        pipeline.sampler = FromImage(pipeline.sampler, latents, strength=strength)
        return Edit()
    given = GivenImage(pixels, region[None, None])
    unknown = given.unknown_cells(cells)
    assert unknown is not None
    resamplings = RESAMPLINGS if recipe.resamplings is None else recipe.resamplings
    pipeline.sampler = RePaint(pipeline.sampler, latents, unknown, resamplings=resamplings, strength=strength)
    return Edit(given=given)


def _refuse_without_effect(
    recipe: Recipe, image: ImageSource | None, mask: ImageSource | None, *, trained: bool
) -> None:
    """Raise ValueError for settings of an image that do nothing, and for an image that would do nothing."""
    if mask is not None and recipe.region is not None:
        raise ValueError(f"a mask and the region {recipe.region} are both given; leave one of them out")
    part = recipe.region if mask is None else mask
    if image is None and part is not None:
        kind = "region" if mask is None else "mask"
        raise ValueError(f"a {kind} is given without an image; give the image that it belongs to")
    for name, value, needs in (("strength", recipe.strength, image), ("resamplings", recipe.resamplings, part)):
        if value is not None and (needs is None or trained):
            kind = "an image" if name == "strength" else "an image and a mask or region"
            without = "for a run that was trained on images" if trained else f"without {kind}"
            raise ValueError(f"{name}={value} has no effect {without}; leave it out")
    if image is not None and part is None and recipe.strength is None and not trained:
        raise ValueError(
            "an image is given without strength and mask; give a strength, such as 0.6, a mask or a region"
        )
