"""What somebody has filled in on the page, as the recipe of images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageChops

from micro_diffusion.generation.frames import way_between
from micro_diffusion.generation.pipeline import Pipeline
from micro_diffusion.generation.recipe import Recipe
from micro_diffusion.serving.requests import drawn_seed

NOISE, IMAGE, MASK, WAY = STARTS = ("noise", "an image", "an image, changed where I paint", "one prompt to another")
"""What images can start from."""


@dataclass(frozen=True)
class Form:
    """The fields; what is empty is the run's own, and an empty seed is drawn.

    start: one of STARTS. image, strength: for IMAGE. drawn: for MASK, "background" and "layers" of images, which are
    opaque where somebody has painted. to_prompt, to_seed: where the way ends; empty is where it begins. count: images,
    which for WAY are those on it, both ends included.
    """

    start: str = NOISE
    prompt: str = ""
    negative_prompt: str = ""
    seed: int | None = None
    count: int = 1
    steps: int | None = None
    guidance_scale: float | None = None
    height: int | None = None
    width: int | None = None
    image: Image.Image | None = None
    strength: float = 0.6
    drawn: Mapping[str, Any] | None = None
    to_prompt: str = ""
    to_seed: int | None = None

    def recipe(self, pipeline: Pipeline) -> tuple[Recipe, dict[str, Image.Image]]:
        """The recipe, and image and mask for `Pipeline.make`.

        Raises:
            ValueError: for what is missing or does not fit.
        """
        given, trained = self._given(), pipeline.tensors.image_conditioner is not None
        seed = drawn_seed() if self.seed is None else self.seed
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
            resolution=(self.height or height, self.width or width),
            strength=self.strength if self.start == IMAGE and not trained else None,
            **dict.fromkeys(given, "given on the page"),
            **chosen,
        )
        return recipe, given

    def _given(self) -> dict[str, Image.Image]:
        if self.start == IMAGE:
            if self.image is None:
                raise ValueError("there is no image to start from; give one, or start from noise")
            return {"image": self.image}
        if self.start == MASK:
            if not self.drawn or self.drawn.get("background") is None:
                raise ValueError("there is no image to paint on; give one, or start from noise")
            image, mask = painted(self.drawn["background"], self.drawn["layers"])
            return {"image": image, "mask": mask}
        return {}

    def _way(self, seed: int) -> tuple[list[Any], list[Any]]:
        prompts = [self.prompt] if self.to_prompt in ("", self.prompt) else [self.prompt, self.to_prompt]
        seeds = [seed] if self.to_seed in (None, seed) else [seed, self.to_seed]
        if len(prompts) == len(seeds) == 1:
            raise ValueError("the way ends where it begins; give another prompt or another seed for its end")
        return way_between(prompts, seeds, self.count)


def painted(background: Image.Image, layers: list[Image.Image]) -> tuple[Image.Image, Image.Image]:
    """The image on white, and its mask, white where a layer is not transparent."""
    below = Image.new("RGBA", background.size, "white")
    image = Image.alpha_composite(below, background.convert("RGBA")).convert("RGB")
    mask = Image.new("L", background.size)
    for layer in layers:
        mask = ImageChops.lighter(mask, layer.convert("RGBA").getchannel("A").point(lambda alpha: 255 * (alpha > 0)))
    return image, mask
