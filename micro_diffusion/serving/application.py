"""The HTTP interface: generate, models, health, metrics, and OpenAI's image endpoint."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import torch
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from PIL import Image, PngImagePlugin

from micro_diffusion.generation.pipeline import Pipeline
from micro_diffusion.generation.recipe import Recipe
from micro_diffusion.generation.samplers import option_names
from micro_diffusion.sampling.image_file import TEXT_ENTRY
from micro_diffusion.serving.batching import Batcher, QueueFullError
from micro_diffusion.serving.guard import Guard, error
from micro_diffusion.serving.limits import Limits
from micro_diffusion.serving.metrics import Metrics
from micro_diffusion.serving.models import Models, class_names
from micro_diffusion.serving.requests import GenerateRequest, OpenAIRequest

GONE = 499
"""Status, of nginx, of a request whose client has hung up; nobody reads it but the metrics."""


def application(pipelines: Mapping[str, Pipeline], *, token: str | None = None, limits: Limits | None = None) -> Guard:
    """The ASGI application that serves these pipelines, the first of which is the default model."""
    limits, metrics, models = limits or Limits(), Metrics(), Models(pipelines)
    batcher = Batcher(batch_size=limits.batch_size, queue_length=limits.waiting, metrics=metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(batcher.close)

    app = FastAPI(title="micro-diffusion", lifespan=lifespan)
    service = _Service(models, batcher, limits)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(ValueError, _wrong)
    app.add_exception_handler(QueueFullError, _busy)
    app.add_exception_handler(torch.OutOfMemoryError, _too_large)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics")
    async def numbers() -> PlainTextResponse:
        return PlainTextResponse(metrics.text(waiting=batcher.length))

    @app.get("/models")
    async def all_models() -> dict[str, Any]:
        choices = {group: option_names(group) for group in ("sampler", "levels")}
        return {"models": [_about(name, pipeline) for name, pipeline in models.items()], **choices}

    @app.post("/generate")
    async def generate(asked: GenerateRequest, request: Request) -> Response:
        made = await service.images(asked, request)
        if made is None:
            return Response(status_code=GONE)
        name, recipe, images = made
        if asked.format == "png":
            if len(images) > 1:
                raise ValueError(f"{len(images)} images do not fit into one PNG; ask for format json")
            return Response(png(images[0], recipe), media_type="image/png")
        coded = [base64.b64encode(png(image, recipe.only(i))).decode() for i, image in enumerate(images)]
        return JSONResponse({"model": name, "images": coded, "recipe": recipe.described()})

    @app.get("/v1/models")
    async def openai_models() -> dict[str, Any]:
        found = [{"id": name, "object": "model", "created": 0, "owned_by": "micro-diffusion"} for name in models]
        return {"object": "list", "data": found}

    @app.post("/v1/images/generations")
    async def openai_images(asked: OpenAIRequest, request: Request) -> Response:
        made = await service.images(asked, request)
        if made is None:
            return Response(status_code=GONE)
        _, recipe, images = made
        coded = [base64.b64encode(png(image, recipe.only(i))).decode() for i, image in enumerate(images)]
        if asked.response_format == "url":
            data = [{"url": f"data:image/png;base64,{text}"} for text in coded]
        else:
            data = [{"b64_json": text} for text in coded]
        return JSONResponse({"created": int(time.time()), "data": data})

    return Guard(app, token=token, limits=limits, metrics=metrics)


class _Service:
    """What both endpoints do with a request."""

    def __init__(self, models: Models, batcher: Batcher, limits: Limits) -> None:
        self.models, self.batcher, self.limits = models, batcher, limits

    async def images(
        self, asked: GenerateRequest | OpenAIRequest, request: Request
    ) -> tuple[str, Recipe, list[Image.Image]] | None:
        """Model, recipe and images; or None when the client has hung up: what still waits then is not generated.

        Raises:
            ValueError: for a request that is wrong, or above a limit.
            QueueFullError: when too many images wait.
        """
        name = self.models.named(asked.model)
        pipeline = self.models.pipeline(name, **asked.chosen())
        recipe = asked.recipe(pipeline, self.limits)
        self.limits.check(recipe)
        pipeline.tensors.latent_size(recipe.resolution)  # said at once, rather than when its turn has come
        given = await asyncio.to_thread(asked.given)
        future = self.batcher.submit(pipeline, recipe, given)
        result = asyncio.ensure_future(asyncio.wrap_future(future))
        gone = asyncio.ensure_future(_hung_up(request))
        await asyncio.wait({result, gone}, return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if result.done():
            return name, recipe, result.result()
        future.cancel()
        result.cancel()
        return None


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def png(image: Image.Image, recipe: Recipe) -> bytes:
    """A PNG with its recipe."""
    text, file = PngImagePlugin.PngInfo(), io.BytesIO()
    text.add_itxt(TEXT_ENTRY, json.dumps(recipe.described(), ensure_ascii=False))
    image.save(file, "PNG", pnginfo=text)
    return file.getvalue()


def _about(name: str, pipeline: Pipeline) -> dict[str, Any]:
    own, classes = pipeline.run.prompts, class_names(pipeline)
    return {
        "name": name,
        "resolution": list(pipeline.resolution),
        "steps": pipeline.tensors.sampler.steps,
        "guidance_scale": own.guidance_scale,
        "weights": pipeline.run.weights,
        **({"classes": classes} if classes else {}),
    }


async def _invalid(_: Request, problem: Exception) -> JSONResponse:
    assert isinstance(problem, RequestValidationError)
    said = "; ".join(f"{'.'.join(map(str, one['loc'][1:])) or 'the body'}: {one['msg']}" for one in problem.errors())
    return JSONResponse(error(said), 400)


async def _wrong(_: Request, problem: Exception) -> JSONResponse:
    return JSONResponse(error(str(problem)), 400)


async def _busy(_: Request, problem: Exception) -> JSONResponse:
    return JSONResponse(error(str(problem)), 503, headers={"Retry-After": "5"})


async def _too_large(_: Request, problem: Exception) -> JSONResponse:
    said = "the memory of the device is too small for this now; ask for fewer or smaller images"
    return JSONResponse(error(said), 503, headers={"Retry-After": "5"})
