"""Generated images as files: one, a captioned grid, a folder of them, a strip, or a moving image."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from micro_diffusion.files.outputs import check_writable
from micro_diffusion.generation.frames import MOVING, check_moving, save_moving, strip
from micro_diffusion.generation.recipe import Recipe
from micro_diffusion.sampling.grid import captioned_grid, from_pil
from micro_diffusion.sampling.image_file import check_image_file, free_path, make_folder, save_image
from micro_diffusion.sampling.start import Between

MOST_COLUMNS = 8
"""Up to so many images of a prompt make a row of their own."""


def check_out(out: Path | None, *, moves: bool) -> Path:
    """Where the images go, which is found out before an hour of generating; moves: whether they are frames.

    Raises:
        ValueError: when the file cannot be written.
    """
    out = out or free_path(Path("generated.png"))
    if moves and out.suffix.lower() in MOVING:
        check_moving(out)
    elif not _is_folder(out):
        check_image_file(out)
    else:
        make_folder(out)
        check_writable(out)
    return out


def save_results(
    images: Sequence[Image.Image], recipe: Recipe, out: Path, *, sampler: str, fps: float | None = None
) -> None:
    """Write the images with their recipe.

    sampler: the name of its class, for people who read the recipe. fps: frames a second, None for images without an
    order.
    """
    whole = {**recipe.described(), "sampler_class": sampler}
    if fps is not None and out.suffix.lower() in MOVING:
        save_moving(images, out, fps=fps, description=whole)
    elif _is_folder(out):
        make_folder(out)
        for index, image in enumerate(images):
            save_image(image, out / f"{index:04d}.png", {**recipe.only(index).described(), "sampler_class": sampler})
        lines = [f"{index:04d}.png\t{' '.join(said(prompt).split())}\n" for index, prompt in enumerate(recipe.prompts)]
        (out / "prompts.txt").write_text("".join(lines), encoding="utf-8")
    else:
        save_image(arranged(images, recipe, as_strip=fps is not None), out, {**whole, "strip": fps is not None})


def arranged(images: Sequence[Image.Image], recipe: Recipe, *, as_strip: bool) -> Image.Image:
    """One image: the only one, a strip, or a grid with the prompts."""
    if len(images) == 1:
        return images[0]
    if as_strip:
        return strip(images)
    texts = [said(text) for text in recipe.prompts]
    return captioned_grid(torch.stack([from_pil(image) for image in images]), texts, columns=_columns(texts))


def _columns(texts: Sequence[str]) -> int | None:
    """A row for each prompt where each has as many images, and a few; else None."""
    counts = [len(list(same)) for _, same in itertools.groupby(texts)]
    return counts[0] if len(counts) > 1 and set(counts) == {counts[0]} and 1 < counts[0] <= MOST_COLUMNS else None


def said(prompt: str | Between) -> str:
    """A prompt, or a point between two, as text."""
    if isinstance(prompt, Between):
        return f"{prompt.share:.0%} from {prompt.first!r} to {prompt.second!r}"
    return prompt


def _is_folder(out: Path) -> bool:
    return out.is_dir() or not out.suffix
