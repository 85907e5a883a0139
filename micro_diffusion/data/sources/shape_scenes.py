"""The embedded data set: captioned renders of coloured shapes, drawn from (seed, index) at any resolution.

An image has side length 1, x to the right and y down. It shows one object, or two that differ in colour and do not
touch. Some pairs of colour and shape are held out of training, so that a model's composition can be measured on them.
"""

from __future__ import annotations

import math
import re
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

SIZES = {"small": 0.13, "large": 0.21}
"""Radius r of an object, before it is varied by up to 6 %."""

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 160, 50),
    "blue": (35, 60, 220),
    "yellow": (245, 220, 40),
    "purple": (135, 40, 170),
    "orange": (245, 130, 20),
    "cyan": (40, 205, 220),
    "pink": (250, 130, 190),
}
BACKGROUNDS = {"white": (245, 245, 245), "gray": (128, 128, 128), "black": (15, 15, 15)}
RELATIONS = {"to the left of": (-1, 0), "to the right of": (1, 0), "above": (0, -1), "below": (0, 1)}
"""Where the first object lies, seen from the second."""

HELD_OUT = {("red", "star"), ("blue", "triangle"), ("green", "circle"), ("yellow", "square")}

SIZE_VARIATION = 0.06
DOMINANCE = 1.2  # the named direction's distance over the other direction's, at least
GAP = 0.03  # between two objects, at least
MARGIN = 0.01  # between an object and the image's edge, at least


def _outline(corners: list[tuple[float, float]], points: int = 120) -> np.ndarray:
    """Corners as (radius, degrees clockwise from the top) -> (points, 2), the closed polygon's edges evenly sampled."""
    radius, angle = np.array(corners).T
    start = np.stack([radius * np.sin(np.radians(angle)), -radius * np.cos(np.radians(angle))], axis=1)
    along = np.linspace(0, 1, points // len(corners), endpoint=False)[None, :, None]
    edges = np.roll(start, -1, axis=0) - start
    return (start[:, None] + along * edges[:, None]).reshape(-1, 2)


OUTLINES = {
    "circle": _outline([(0.95, 3 * i) for i in range(120)]),
    "square": _outline([(0.84 * math.sqrt(2), 45 + 90 * i) for i in range(4)]),
    "triangle": _outline([(1.2, 120 * i) for i in range(3)]),
    "star": _outline([(1.25 if i % 2 == 0 else 1.25 * 0.45, 36 * i) for i in range(10)]),
}
"""Each shape's outline around its centre, (120, 2) points in units of the object's radius r."""

HeldOut = Literal["exclude", "only", "include"]


class ObjectDescription(NamedTuple):
    """What a caption says of one object."""

    size: str
    colour: str
    shape: str


class Description(NamedTuple):
    """What a caption says of an image. The relation is where the first object lies, seen from the second."""

    objects: tuple[ObjectDescription, ...]
    relation: str | None
    background: str


class Placement(NamedTuple):
    """Centre and radius of an object, in sides of the image."""

    x: float
    y: float
    radius: float


class Scene(NamedTuple):
    """An image before it is drawn: one placement for each object of the description."""

    description: Description
    placements: tuple[Placement, ...]

    def outlines(self) -> list[np.ndarray]:
        """Each object's outline, (120, 2) points in sides of the image."""
        objects = zip(self.description.objects, self.placements, strict=True)
        return [OUTLINES[item.shape] * place.radius + (place.x, place.y) for item, place in objects]


def caption(scene: Scene | Description) -> str:
    """The caption of a scene, the inverse of `parse_caption`."""
    objects, relation, background = scene.description if isinstance(scene, Scene) else scene
    named = [f"a {item.size} {item.colour} {item.shape}" for item in objects]
    return f"{f' {relation} '.join(named)} on a {background} background"


def short_caption(scene: Scene) -> str:
    """Colour and shape of each object, the caption of somebody who says no more than what is seen first."""
    return " and ".join(f"a {item.colour} {item.shape}" for item in scene.description.objects)


_OBJECT = rf"a ({'|'.join(SIZES)}) ({'|'.join(COLOURS)}) ({'|'.join(OUTLINES)})"
_CAPTION = re.compile(rf"{_OBJECT}(?: ({'|'.join(RELATIONS)}) {_OBJECT})? on a ({'|'.join(BACKGROUNDS)}) background")


def parse_caption(text: str) -> Description:
    """What a caption of this data set says. Raises ValueError when `text` is not letter for letter such a caption."""
    match = _CAPTION.fullmatch(text)
    if match is None:
        raise ValueError(
            f"{text!r} is no caption of the shapes data set; write it like "
            f"'a large red circle above a small blue star on a white background'"
        )
    *words, background = match.groups()
    first, relation, second = ObjectDescription(*words[:3]), words[3], words[4:]
    objects = (first,) if relation is None else (first, ObjectDescription(*second))
    return Description(objects, relation, background)


def scene(seed: int, index: int, *, pairs: float = 0.5, held_out: HeldOut = "exclude") -> Scene:
    """The scene number `index` of the data set `seed`.

    Args:
        seed: non-negative; every seed is another data set.
        index: non-negative; a scene does not depend on how many are drawn.
        pairs: fraction of scenes with two objects, in [0, 1].
        held_out: "exclude" leaves out the colour and shape pairs in HELD_OUT, as training must; "only" draws every
            object from them; "include" draws from all pairs alike.

    Raises:
        ValueError: when an argument lies outside of what is stated above.
    """
    if not 0 <= pairs <= 1:
        raise ValueError(f"pairs is {pairs}; set it to a fraction of images, from 0 to 1")
    allowed = [(c, s) for c in COLOURS for s in OUTLINES if held_out == "include" or _kept(c, s, held_out)]
    rng = np.random.default_rng([seed, index])
    count = 2 if rng.random() < pairs else 1
    while True:
        chosen = [allowed[i] for i in rng.choice(len(allowed), size=count, replace=False)]
        if len({colour for colour, _ in chosen}) == count:
            break
    sizes = [list(SIZES)[i] for i in rng.integers(len(SIZES), size=count)]
    objects = tuple(ObjectDescription(size, *pair) for size, pair in zip(sizes, chosen, strict=True))
    relation = list(RELATIONS)[rng.integers(len(RELATIONS))] if count == 2 else None
    background = list(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))]
    description = Description(objects, relation, background)
    return place(description, rng)


def _kept(colour: str, shape: str, held_out: HeldOut) -> bool:
    if held_out not in ("exclude", "only"):
        raise ValueError(f"held_out is {held_out!r}; set it to 'exclude', 'only' or 'include'")
    return ((colour, shape) in HELD_OUT) == (held_out == "only")


def place(description: Description, rng: np.random.Generator, *, candidates: int = 64) -> Scene:
    """Place a description's objects at random: within the image, apart, and related as the description says."""
    while True:
        radii = [SIZES[item.size] * rng.uniform(1 - SIZE_VARIATION, 1 + SIZE_VARIATION) for item in description.objects]
        outlines = [OUTLINES[item.shape] * r for item, r in zip(description.objects, radii, strict=True)]
        low = np.array([MARGIN - outline.min(axis=0) for outline in outlines])
        high = np.array([1 - MARGIN - outline.max(axis=0) for outline in outlines])
        drawn = rng.uniform(low, high, size=(candidates, *low.shape))
        centres = drawn[0] if description.relation is None else _first_fit(drawn, outlines, description.relation)
        if centres is not None:
            places = (Placement(float(x), float(y), r) for (x, y), r in zip(centres, radii, strict=True))
            return Scene(description, tuple(places))


def _first_fit(drawn: np.ndarray, outlines: list[np.ndarray], relation: str) -> np.ndarray | None:
    """The first of N centres of two objects (N, 2, 2) that hold the relation and keep them apart, or None."""
    steps = drawn[:, 0] - drawn[:, 1]
    direction = np.array(RELATIONS[relation])
    along, across = steps @ direction, abs(steps @ direction[::-1])
    reach = [np.linalg.norm(outline, axis=1).max() for outline in outlines]
    distance = np.linalg.norm(steps, axis=1)
    related = (along >= DOMINANCE * across) & (distance >= max(reach))  # nearer, one might lie inside the other
    for number in np.flatnonzero(related):
        if distance[number] >= sum(reach) + GAP or _apart(outlines, steps[number]):
            return drawn[number]
    return None


def _apart(outlines: list[np.ndarray], step: np.ndarray) -> bool:
    """Whether no point of one outline, moved by `step` (2,), comes near one of the other."""
    x, y = (np.subtract.outer(*axes) for axes in zip((outlines[0] + step).T, outlines[1].T, strict=True))
    return bool((x**2 + y**2).min() >= GAP**2)


def render(scene: Scene, resolution: int) -> np.ndarray:
    """Draw a scene, antialiased -> (resolution, resolution, 3) uint8."""
    if resolution < 1:
        raise ValueError(f"resolution is {resolution}; set it to a number of pixels, 1 or more")
    oversampling = min(8, max(2, 2048 // resolution))
    side = resolution * oversampling
    image = Image.new("RGB", (side, side), BACKGROUNDS[scene.description.background])
    draw = ImageDraw.Draw(image)
    for item, outline in zip(scene.description.objects, scene.outlines(), strict=True):
        draw.polygon((outline * side).ravel().tolist(), fill=COLOURS[item.colour])
    return np.asarray(image.reduce(oversampling))
