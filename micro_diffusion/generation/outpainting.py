"""Images made larger on one side, window by window, each of the size that the run generates: panoramas too.

Legend: H W pixels of a window.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

from PIL import Image

from micro_diffusion.generation.given import ImageSource, opened
from micro_diffusion.generation.recipe import Recipe

SIDES = ("left", "right", "top", "bottom")

Inpaint = Callable[[int, Image.Image, Image.Image], Image.Image]
"""The number of windows before, a window, its mask (white where pixels are to be generated) -> the window."""


def parse_extension(text: str) -> tuple[str, int]:
    """`right=96` -> the side and the pixels to add.

    Raises:
        ValueError: for another side, or no positive number.
    """
    side, _, number = text.partition("=")
    if side not in SIDES or not number.isdecimal() or int(number) < 1:
        raise ValueError(f"the extension is {text!r}; give a side and a number of pixels, such as right=96")
    return side, int(number)


def extended_images(
    recipe: Recipe,
    image: ImageSource | None,
    mask: ImageSource | None,
    make: Callable[[Recipe, Image.Image, Image.Image], Image.Image],
) -> list[Image.Image]:
    """One larger image for each prompt and seed of the recipe; window k starts from k more than its index.

    Args:
        recipe: with what `extend` asks for.
        image: to be made larger.
        mask: none, which is checked here.
        make: the image of a recipe of one prompt, from a window and its mask.

    Raises:
        ValueError: without an image, or with a mask or region.
    """
    if image is None or mask is not None or recipe.region is not None:
        raise ValueError(
            f"extend={recipe.extend} needs an image and no mask or region; give the image to be made larger"
        )
    whole = opened(image)
    found = []
    for one in (recipe.only(index) for index in range(len(recipe.prompts))):

        def inpaint(made: int, window: Image.Image, unknown: Image.Image, one: Recipe = one) -> Image.Image:
            seed, index = one.seeds[0]
            part = dataclasses.replace(one, extend=None, image=None, seeds=((seed, index + made),))
            return make(part, window, unknown)

        found.append(extended(whole, recipe.extend or "", recipe.resolution, inpaint))
    return found


def extended(image: Image.Image, extension: str, window: tuple[int, int], inpaint: Inpaint) -> Image.Image:
    """The image with more on one side; half a window is new each time, the other half is known.

    Args:
        image: scaled to the window's height, or to its width for an extension at the top or bottom.
        extension: see `parse_extension`.
        window: (H, W) of what is inpainted at once.
        inpaint: generates the white part of each window.
    """
    side, missing = parse_extension(extension)
    height, width = window
    is_wide = side in ("left", "right")
    scale = height / image.height if is_wide else width / image.width
    canvas = image.convert("RGB").resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    made, across = 0, width if is_wide else height
    while missing > 0:
        length = canvas.width if is_wide else canvas.height
        new = max(min(missing, across // 2), across - length)
        canvas = _one_more(canvas, side, new, window, partial(inpaint, made))
        missing, made = missing - new, made + 1
    if missing < 0:  # the image was shorter than a window less the extension
        canvas = _without(canvas, side, -missing)
    return canvas


def _one_more(
    canvas: Image.Image,
    side: str,
    new: int,
    window: tuple[int, int],
    inpaint: Callable[[Image.Image, Image.Image], Image.Image],
) -> Image.Image:
    """The canvas and `new` more rows or columns, inpainted in one window at that side."""
    is_wide, height, width = side in ("left", "right"), *window
    size = (canvas.width + new, canvas.height) if is_wide else (canvas.width, canvas.height + new)
    shift = new if side in ("left", "top") else 0
    larger = Image.new("RGB", size)
    larger.paste(canvas, (shift, 0) if is_wide else (0, shift))
    corner = (size[0] - width if side == "right" else 0, size[1] - height if side == "bottom" else 0)
    box = (*corner, corner[0] + width, corner[1] + height)
    mask = Image.new("L", (width, height))
    strip = {"left": (0, 0, new, height), "right": (width - new, 0, width, height)}
    strip |= {"top": (0, 0, width, new), "bottom": (0, height - new, width, height)}
    mask.paste(255, strip[side])
    larger.paste(inpaint(larger.crop(box), mask), corner)
    return larger


def _without(canvas: Image.Image, side: str, surplus: int) -> Image.Image:
    """The canvas without the last rows or columns of a side."""
    width, height = canvas.size
    boxes = {"left": (surplus, 0, width, height), "right": (0, 0, width - surplus, height)}
    boxes |= {"top": (0, surplus, width, height), "bottom": (0, 0, width, height - surplus)}
    return canvas.crop(boxes[side])
