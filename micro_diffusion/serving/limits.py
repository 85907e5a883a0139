"""What one client may ask of a server."""

from __future__ import annotations

from dataclasses import dataclass

from micro_diffusion.generation.recipe import Recipe


@dataclass(frozen=True)
class Limits:
    """images: of one request. side: pixels. prompt: characters. body: bytes of a request. seconds: to send it in.

    waiting: images in the queue. batch_size: images generated at once.
    """

    images: int = 8
    steps: int = 100
    side: int = 1024
    prompt: int = 2000
    body: int = 1 << 20
    seconds: float = 20
    waiting: int = 256
    batch_size: int = 16

    def check(self, recipe: Recipe) -> None:
        """Raise ValueError, which names the limit, for what is above one."""
        texts = [*map(str, recipe.prompts), *recipe.negative_prompts]
        asked = {
            "images": len(recipe.prompts),
            "steps": recipe.steps,
            "side": max(recipe.resolution),
            "prompt": max(map(len, texts)),
        }
        words = {"images": "images", "steps": "steps", "side": "pixels a side", "prompt": "characters of a prompt"}
        for name, number in asked.items():
            if number > (limit := getattr(self, name)):
                raise ValueError(f"{number} {words[name]} are above the limit of {limit}; ask for less")
