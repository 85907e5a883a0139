"""What there is of images while they are generated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from micro_diffusion.sampling.grid import to_pil
from micro_diffusion.sampling.pipeline import Pipeline
from micro_diffusion.sampling.watched import OnCall


@dataclass(frozen=True)
class Preview:
    """A batch of images after a network call in `step`, from 1 to `steps`."""

    step: int
    steps: int
    decode: Callable[[], list[Image.Image]]

    def images(self) -> list[Image.Image]:
        """The images as the network sees them at this moment, decoded only when they are asked for."""
        return self.decode()


def previews(pipeline: Pipeline, on_preview: Callable[[Preview], object]) -> OnCall:
    """For `Watched`: tells of latents as previews."""

    def told(latents: Tensor, step: int, steps: int) -> object:
        def decode() -> list[Image.Image]:
            return [to_pil(image) for image in pipeline.decoded(latents)]

        return on_preview(Preview(step, steps, decode))

    return told
