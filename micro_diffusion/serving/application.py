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

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from PIL import Image, PngImagePlugin

from micro_diffusion.generation.pipeline import Pipeline
from micro_diffusion.generation.recipe import Recipe
from micro_diffusion.sampling.image_file import TEXT_ENTRY
from micro_diffusion.serving.batching import Batcher, QueueFullError
from micro_diffusion.serving.guard import Guard, error
from micro_diffusion.serving.limits import Limits
from micro_diffusion.serving.metrics import Metrics
from micro_diffusion.serving.requests import GenerateRequest, OpenAIRequest

GONE = 499
"""Status, of nginx, of a request whose client has hung up; nobody reads it but the metrics."""


def application(pipelines: Mapping[str, Pipeline], *, token: str | None = None, limits: Limits | None = None) -> Guard:
    """The ASGI application that serves these pipelines, the first of which is the default model."""
    limits, metrics = limits or Limits(), Metrics()
    batcher = Batcher(pipelines, batch_size=limits.batch_size, queue_length=limits.waiting, metrics=metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(batcher.close)

    app = FastAPI(title="micro-diffusion", lifespan=lifespan)
    service = _Service(pipelines, batcher, limits)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(ValueError, _wrong)
    app.add_exception_handler(QueueFullError, _busy)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics")
    async def numbers() -> PlainTextResponse:
        return PlainTextResponse(metrics.text(waiting=batcher.length))

    @app.get("/models")
    async def models() -> dict[str, Any]:
        return {"models": [_about(name, pipeline) for name, pipeline in pipelines.items()]}

    @app.post("/generate")
    async def generate(asked: GenerateRequest, request: Request) -> Response:
        name, pipeline = service.find(asked.model)
        recipe = asked.recipe(pipeline)
        images = await service.images(name, recipe, request)
        if images is None:
            return Response(status_code=GONE)
        if asked.format == "png":
            if len(images) > 1:
                raise ValueError(f"{len(images)} images do not fit into one PNG; ask for format json")
            return Response(png(images[0], recipe), media_type="image/png")
        coded = [base64.b64encode(png(image, recipe.only(i))).decode() for i, image in enumerate(images)]
        return JSONResponse({"model": name, "images": coded, "recipe": recipe.described()})

    @app.get("/v1/models")
    async def openai_models() -> dict[str, Any]:
        found = [{"id": name, "object": "model", "created": 0, "owned_by": "micro-diffusion"} for name in pipelines]
        return {"object": "list", "data": found}

    @app.post("/v1/images/generations")
    async def openai_images(asked: OpenAIRequest, request: Request) -> Response:
        name, pipeline = service.find(asked.model)
        recipe = asked.recipe(pipeline)
        images = await service.images(name, recipe, request)
        if images is None:
            return Response(status_code=GONE)
        coded = [base64.b64encode(png(image, recipe.only(i))).decode() for i, image in enumerate(images)]
        if asked.response_format == "url":
            data = [{"url": f"data:image/png;base64,{text}"} for text in coded]
        else:
            data = [{"b64_json": text} for text in coded]
        return JSONResponse({"created": int(time.time()), "data": data})

    return Guard(app, token=token, limits=limits, metrics=metrics)


class _Service:
    """What both endpoints do with a recipe."""

    def __init__(self, pipelines: Mapping[str, Pipeline], batcher: Batcher, limits: Limits) -> None:
        self.pipelines, self.batcher, self.limits = pipelines, batcher, limits

    def find(self, model: str | None) -> tuple[str, Pipeline]:
        """The model of that name, or the first; ValueError when there is none."""
        name = next(iter(self.pipelines)) if model is None else model
        if name not in self.pipelines:
            raise ValueError(f"there is no model {name}; choose one of {', '.join(self.pipelines)}")
        return name, self.pipelines[name]

    async def images(self, name: str, recipe: Recipe, request: Request) -> list[Image.Image] | None:
        """The images, or None when the client has hung up, in which case those that still wait are not generated."""
        self.limits.check(recipe)
        pipeline = self.pipelines[name].tensors
        pipeline.latent_size(recipe.resolution)  # what is wrong with one request must not stop a batch of several
        future = self.batcher.submit(name, recipe)
        result = asyncio.ensure_future(asyncio.wrap_future(future))
        gone = asyncio.ensure_future(_hung_up(request))
        await asyncio.wait({result, gone}, return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if result.done():
            return result.result()
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
    own = pipeline.run.prompts
    return {
        "name": name,
        "resolution": list(pipeline.resolution),
        "steps": pipeline.tensors.sampler.steps,
        "guidance_scale": own.guidance_scale,
        "weights": pipeline.run.weights,
    }


async def _invalid(_: Request, problem: Exception) -> JSONResponse:
    assert isinstance(problem, RequestValidationError)
    said = "; ".join(f"{'.'.join(map(str, one['loc'][1:])) or 'the body'}: {one['msg']}" for one in problem.errors())
    return JSONResponse(error(said), 400)


async def _wrong(_: Request, problem: Exception) -> JSONResponse:
    return JSONResponse(error(str(problem)), 400)


async def _busy(_: Request, problem: Exception) -> JSONResponse:
    return JSONResponse(error(str(problem)), 503, headers={"Retry-After": "5"})
