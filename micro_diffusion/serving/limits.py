"""What one client may ask of a server."""

from __future__ import annotations

import math
from dataclasses import dataclass

from micro_diffusion.generation.outpainting import parse_extension
from micro_diffusion.generation.recipe import Recipe


@dataclass(frozen=True)
class Limits:
    """images: of one request, of which each window of an extension is one. side: pixels. prompt: characters.

    body: bytes of a request. seconds: to send it in. waiting: images in the queue. batch_size: images at once.
    """

    images: int = 8
    steps: int = 100
    resamplings: int = 10
    side: int = 1024
    prompt: int = 2000
    body: int = 8 << 20
    seconds: float = 20
    waiting: int = 256
    batch_size: int = 16

    def check_images(self, *factors: int) -> None:
        """Raise ValueError when prompts, seeds and images of each are too many; before a recipe lists them all."""
        _check(math.prod(factors), "images", self.images)

    def check(self, recipe: Recipe) -> None:
        """Raise ValueError, which names the limit, for what is above one."""
        texts = [*map(str, recipe.prompts), *recipe.negative_prompts]
        _check(recipe.steps, "steps", self.steps)
        _check(recipe.resamplings or 1, "resamplings", self.resamplings)
        _check(max(recipe.resolution), "pixels a side", self.side)
        _check(max(map(len, texts)), "characters of a prompt", self.prompt)
        windows = 1
        if recipe.extend is not None:
            side, added = parse_extension(recipe.extend)
            _check(added, "pixels to add", self.side)
            windows = math.ceil(added / max(1, recipe.resolution[side in ("left", "right")] // 2))
        _check(len(recipe.prompts) * windows, "images", self.images)


def _check(number: int, what: str, limit: int) -> None:
    if number > limit:
        raise ValueError(f"{number} {what} are above the limit of {limit}; ask for less")
