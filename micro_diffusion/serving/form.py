"""What somebody has filled in on the page, as the recipe of images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image

from micro_diffusion.generation.frames import way_between
from micro_diffusion.generation.pipeline import Pipeline
from micro_diffusion.generation.recipe import Recipe
from micro_diffusion.serving.limits import Limits
from micro_diffusion.serving.painting import painted
from micro_diffusion.serving.requests import drawn_seed

NOISE, IMAGE, MASK, WAY = STARTS = ("noise", "an image", "an image, changed where I paint", "one prompt to another")
"""What images can start from."""
PAINTED = "what I paint"
"""What of an image is changed, where no region of it is."""


@dataclass(frozen=True)
class Form:
    """The fields; what is empty is the run's own, and an empty seed is drawn.

    start: one of STARTS. image: for IMAGE and MASK. strength: for IMAGE. region: for MASK, PAINTED or a name of
    `REGIONS`. painting: for PAINTED, as `painted` reads it. to_prompt, to_seed: where the way ends; empty is where it
    begins. count: images, which for WAY are those on it, both ends included.
    """

    start: str = NOISE
    prompt: str = ""
    negative_prompt: str = ""
    seed: str = ""
    count: int = 1
    steps: int | None = None
    guidance_scale: float | None = None
    guidance_rescale: float = 0.0
    height: int | None = None
    width: int | None = None
    image: Image.Image | None = None
    strength: float = 0.6
    region: str = PAINTED
    painting: str | None = ""
    to_prompt: str = ""
    to_seed: str = ""

    def recipe(self, pipeline: Pipeline, limits: Limits | None = None) -> tuple[Recipe, dict[str, Any]]:
        """The recipe, and image and mask for `Pipeline.make`.

        Raises:
            ValueError: for what is missing, does not fit, or is above a limit.
        """
        limits = limits or Limits()
        limits.check_images(self.count)
        given, trained = self._given(), pipeline.tensors.image_conditioner is not None
        seed = _whole(self.seed) if self.seed.strip() else drawn_seed()
        chosen: dict[str, Any] = {"seed": seed, "count": self.count}
        prompts: Any = self.prompt
        if self.start == WAY:
            prompts, seeds = self._way(seed)
            chosen = {"seed": seeds, "paired": True}
        height, width = pipeline.resolution
        recipe = pipeline.recipe(
            prompts,
            negative_prompt=self.negative_prompt,
            steps=self.steps,
            guidance_scale=self.guidance_scale,
            guidance_rescale=self.guidance_rescale,
            resolution=(self.height or height, self.width or width),
            strength=self.strength if self.start == IMAGE and not trained else None,
            region=self.region if self.start == MASK and self.region != PAINTED else None,
            **dict.fromkeys(given, "given on the page"),
            **chosen,
        )
        limits.check(recipe)
        return recipe, given

    def _given(self) -> dict[str, Any]:
        if self.start not in (IMAGE, MASK):
            return {}
        if self.image is None:
            raise ValueError("there is no image to start from; give one, or start from noise")
        if self.start == IMAGE or self.region != PAINTED:
            return {"image": self.image}
        return {"image": self.image, "mask": painted(self.painting, self.image.size)}

    def _way(self, seed: int) -> tuple[list[Any], list[Any]]:
        prompts = [self.prompt] if self.to_prompt in ("", self.prompt) else [self.prompt, self.to_prompt]
        end = _whole(self.to_seed) if self.to_seed.strip() else seed
        seeds = [seed] if end == seed else [seed, end]
        if len(prompts) == len(seeds) == 1:
            raise ValueError("the way ends where it begins; give another prompt or another seed for its end")
        return way_between(prompts, seeds, self.count)


def _whole(seed: str) -> int:
    try:
        return int(seed)
    except ValueError as error:
        raise ValueError(f"the seed {seed!r} is no whole number; give one, such as 0, or none at all") from error
