"""Images on the way between prompts and between seeds, as a strip or as a moving image."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from micro_diffusion.files.outputs import check_output_file
from micro_diffusion.sampling.grid import from_pil
from micro_diffusion.sampling.start import Between

MOVING = (".gif", ".mp4")
"""Endings of moving images."""


def way_between(
    prompts: Sequence[str], seeds: Sequence[int], frames: int
) -> tuple[list[str | Between], list[int | Between]]:
    """Prompts and seeds of images on the way from each prompt and seed to the next.

    frames: images from one to the next, both of them included.

    Raises:
        ValueError: when there are no two to go between, or neither as many seeds as prompts nor one of them.
    """
    stops = max(len(prompts), len(seeds))
    if frames < 2 or stops < 2 or not {len(prompts), len(seeds)} <= {1, stops}:
        raise ValueError(
            f"{frames} frames between {len(prompts)} prompts and {len(seeds)} seeds make no way; give at least 2 "
            "frames, and several prompts, several seeds, or as many of both"
        )
    shares = [(stop, step / (frames - 1)) for stop in range(stops - 1) for step in range(frames - (stop < stops - 2))]
    return [_at(prompts, *place) for place in shares], [_at(seeds, *place) for place in shares]


def _at(ends: Sequence[Any], stop: int, share: float) -> Any:
    if len(ends) == 1 or share == 0:
        return ends[0 if len(ends) == 1 else stop]
    return ends[stop + 1] if share == 1 else Between(ends[stop], ends[stop + 1], share)


def strip(images: Sequence[Image.Image]) -> Image.Image:
    """The images side by side."""
    width, height = images[0].size
    joined = Image.new("RGB", (width * len(images), height))
    for index, image in enumerate(images):
        joined.paste(image, (width * index, 0))
    return joined


def check_moving(path: Path) -> None:
    """Find out before generating that a moving image can be written.

    Raises:
        ValueError: for another ending than those of MOVING.
        ModuleNotFoundError: for an MP4 without the library that writes it.
    """
    if path.suffix.lower() not in MOVING:
        raise ValueError(f"{path} ends in {path.suffix!r}, which does not move; use one of {', '.join(MOVING)}")
    if path.suffix.lower() == ".mp4":
        _video_library(path)
    check_output_file(path)


def save_moving(images: Sequence[Image.Image], path: Path, *, fps: float, description: Mapping[str, Any]) -> None:
    """Write the images one after another as a GIF that starts again, whose comment is the description, or as an MP4."""
    if path.suffix.lower() == ".mp4":
        _save_video(images, path, fps)
        return
    first, *others = [image.convert("P", palette=Image.Palette.ADAPTIVE) for image in images]
    text = json.dumps(dict(description))
    first.save(path, save_all=True, append_images=others, duration=round(1000 / fps), loop=0, comment=text.encode())


def _save_video(images: Sequence[Image.Image], path: Path, fps: float) -> None:
    av = _video_library(path)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=round(fps))
        width, height = images[0].size
        stream.width, stream.height, stream.pix_fmt = width // 2 * 2, height // 2 * 2, "yuv420p"
        for image in images:
            file.mux(stream.encode(av.VideoFrame.from_image(image.crop((0, 0, stream.width, stream.height)))))
        file.mux(stream.encode())


def _video_library(path: Path) -> Any:
    try:
        return import_module("av")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{path} needs the library av, which is not installed; pip install av, or choose a name that ends in .gif"
        ) from error


def differ_by(first: Image.Image, second: Image.Image) -> int:
    """The largest difference of two images of one size in any value of 0 to 255."""
    a, b = (from_pil(image).to(torch.int16) for image in (first, second))
    return int((a - b).abs().max())
