"""What clients send, checked by pydantic: our own request and that of OpenAI's image endpoint.

The fields of a request are the arguments of `Pipeline.recipe` and `Models.pipeline` of the same names, and are checked
there as the options of `micro-diffusion generate` are.
"""

from __future__ import annotations

import secrets
from typing import Annotated, Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from micro_diffusion.generation.pipeline import Pipeline
from micro_diffusion.generation.recipe import Recipe
from micro_diffusion.serving.limits import Limits
from micro_diffusion.serving.sent_image import sent_image

Text = Annotated[str, Field(min_length=1)]
Whole = Annotated[int, Field(ge=1)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Level = Annotated[float, Field(ge=0, allow_inf_nan=False)]
SENT = "sent with the request"
"""What recipes call the images that clients send, which are not kept."""


class _Request(BaseModel):
    """model: None is the default."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = None

    def chosen(self) -> dict[str, str | None]:
        """Arguments of `Models.pipeline`, without the model."""
        return {}

    def given(self) -> dict[str, Image.Image]:
        """Image and mask for `Pipeline.make`."""
        return {}


class GenerateRequest(_Request):
    """`POST /generate`; what is left out is the run's own."""

    prompt: Text | Annotated[list[Text], Field(min_length=1)]
    negative_prompt: str = ""
    seed: int | Annotated[list[int], Field(min_length=1)] | None = None
    count: Whole = 1
    steps: Whole | None = None
    sampler: str | None = None
    levels: str | None = None
    guidance_scale: Number | None = None
    guidance_interval: tuple[Level, Level] | None = None
    guidance_rescale: Number | None = None
    weaker: str | None = None
    resolution: Whole | tuple[Whole, Whole] | None = None
    image: Text | None = None
    mask: Text | None = None
    region: Text | None = None
    strength: Number | None = None
    resamplings: Whole | None = None
    extend: Text | None = None
    sharpness: Number = 0.0
    brightness: Number = 0.0
    format: Literal["json", "png"] = "json"

    def chosen(self) -> dict[str, str | None]:
        """Arguments of `Models.pipeline`, without the model."""
        return {"sampler": self.sampler, "levels": self.levels, "weaker": self.weaker}

    def recipe(self, pipeline: Pipeline, limits: Limits) -> Recipe:
        """What to generate with the pipeline of `model`; ValueError for what is wrong with it or above a limit."""
        several = [len(one) for one in (self.prompt, self.seed) if isinstance(one, list)]
        limits.check_images(self.count, *several)
        settings = self.model_dump(exclude={"model", "prompt", "seed", "image", "mask", "format", *self.chosen()})
        named = {name: SENT for name in ("image", "mask") if getattr(self, name) is not None}
        return pipeline.recipe(self.prompt, seed=_seed(self.seed), **named, **settings)

    def given(self) -> dict[str, Image.Image]:
        """Image and mask for `Pipeline.make`."""
        sent = {"image": self.image, "mask": self.mask}
        return {name: sent_image(text, name) for name, text in sent.items() if text is not None}


class OpenAIRequest(_Request):
    """`POST /v1/images/generations`, as existing clients send it; what has no effect here must be its default."""

    prompt: Text
    n: Whole | None = 1
    size: Annotated[str, Field(pattern=r"^(auto|[1-9]\d{0,5}x[1-9]\d{0,5})$")] | None = None
    response_format: Literal["url", "b64_json"] | None = "b64_json"
    quality: Literal["auto", "standard"] | None = None
    output_format: Literal["png"] | None = None
    user: str | None = None
    seed: int | None = None

    def recipe(self, pipeline: Pipeline, limits: Limits) -> Recipe:
        """What to generate; size is WIDTHxHEIGHT."""
        size: Any = None
        if self.size not in (None, "auto"):
            width, height = map(int, str(self.size).split("x"))
            size = (height, width)
        limits.check_images(self.n or 1)
        return pipeline.recipe(self.prompt, seed=_seed(self.seed), count=self.n or 1, resolution=size)


def drawn_seed() -> int:
    """A seed for a request without one, so that asking twice gives two images."""
    return secrets.randbelow(1 << 31)


def _seed(asked: Any) -> Any:
    return drawn_seed() if asked is None else asked
