"""What clients send, checked by pydantic: our own request and that of OpenAI's image endpoint."""

from __future__ import annotations

import secrets
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from micro_diffusion.generation.pipeline import Pipeline
from micro_diffusion.generation.recipe import Recipe

Text = Annotated[str, Field(min_length=1)]
Number = Annotated[int, Field(ge=1)]


class GenerateRequest(BaseModel):
    """`POST /generate`; what is left out is the run's own, and a seed is drawn."""

    model_config = ConfigDict(extra="forbid")

    prompt: Text | list[Text]
    negative_prompt: str = ""
    model: str | None = None
    seed: int | None = None
    count: Number = 1
    steps: Number | None = None
    guidance_scale: Annotated[float, Field(allow_inf_nan=False)] | None = None
    resolution: Number | tuple[Number, Number] | None = None
    format: Literal["json", "png"] = "json"

    def recipe(self, pipeline: Pipeline) -> Recipe:
        """What to generate with the pipeline of `model`."""
        return pipeline.recipe(
            self.prompt,
            negative_prompt=self.negative_prompt,
            seed=drawn_seed() if self.seed is None else self.seed,
            count=self.count,
            steps=self.steps,
            guidance_scale=self.guidance_scale,
            resolution=self.resolution,
        )


class OpenAIRequest(BaseModel):
    """`POST /v1/images/generations`, as existing clients send it; what has no effect here must be its default."""

    model_config = ConfigDict(extra="forbid")

    prompt: Text
    model: str | None = None
    n: Number | None = 1
    size: Annotated[str, Field(pattern=r"^(auto|[1-9]\d*x[1-9]\d*)$")] | None = None
    response_format: Literal["url", "b64_json"] | None = "b64_json"
    quality: Literal["auto", "standard"] | None = None
    output_format: Literal["png"] | None = None
    user: str | None = None
    seed: int | None = None

    def recipe(self, pipeline: Pipeline) -> Recipe:
        """What to generate; size is WIDTHxHEIGHT."""
        size: Any = None
        if self.size not in (None, "auto"):
            width, height = map(int, str(self.size).split("x"))
            size = (height, width)
        seed = drawn_seed() if self.seed is None else self.seed
        return pipeline.recipe(self.prompt, seed=seed, count=self.n or 1, resolution=size)


def drawn_seed() -> int:
    """A seed for a request without one, so that asking twice gives two images."""
    return secrets.randbelow(1 << 31)
