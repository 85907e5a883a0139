"""What an image of the shapes data set shows, found by classical vision without looking at its caption.

The background is the median colour. Objects grow around solid patches of one palette colour, as far as the image is
a mixture of that colour and the background. An object's shape is the upright outline that overlaps it best. Whatever
neither background nor objects explain is counted, so that blobs, smears and noise are never overlooked.

Legend: H W image height and width, brought down to 64 px when larger, N objects.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from micro_diffusion.data.sources.shape_scenes import BACKGROUNDS, COLOURS, OUTLINES, SIZES

LARGEST_SIDE = 64  # pixels
COLOUR_TOLERANCE = 45.0  # distance in 8-bit RGB; the closest colours, orange and yellow, are 92 apart
UNEXPLAINED = 70.0  # distance in 8-bit RGB from the explained image
SMALLEST_AREA = 0.002  # of the image; the smallest object of the data set covers 0.019
BACKGROUND_AREA = 0.6  # of the image, at least; two of the largest objects leave 0.72
# Of an object and its shape's outline, at least. A square on its corner and a circle reach 0.84; a star has the longest
# edge for its area, so blur costs it most, and nothing else comes near it.
OVERLAP = {"circle": 0.85, "square": 0.85, "triangle": 0.85, "star": 0.8}
SIZE_TOLERANCE = 0.2  # of the size's nominal radius

PALETTE = np.array(list(COLOURS.values()), dtype=np.float64)
UNIT_AREAS = {
    shape: abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2
    for shape, (x, y) in ((shape, outline.T) for shape, outline in OUTLINES.items())
}
"""Area of each shape with r = 1."""

CROSS = ndimage.generate_binary_structure(2, 1)
SQUARE = ndimage.generate_binary_structure(2, 2)


class RecognisedObject(NamedTuple):
    """One object in an image; size and shape are None when it fits none of the data set's.

    x, y: centre of mass. radius: r of a shape of this area. All three in sides of the image.
    overlap: intersection over union with the best outline.
    """

    size: str | None
    colour: str
    shape: str | None
    x: float
    y: float
    radius: float
    overlap: float


class Recognition(NamedTuple):
    """What an image shows. background: None when there is none of the data set's.

    unexplained: number of regions that are neither background nor part of an object of a palette colour.
    """

    background: str | None
    objects: tuple[RecognisedObject, ...]
    unexplained: int


def recognise(image: np.ndarray) -> Recognition:
    """(H, H, 3) uint8 -> what it shows.

    Raises:
        ValueError: when the image is not square, not RGB or not uint8.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[0] != image.shape[1] or image.shape[2] != 3:
        raise ValueError(f"the image is {image.dtype} of shape {image.shape}; give square (H, H, 3) uint8")
    if len(image) > LARGEST_SIDE:
        image = np.asarray(Image.fromarray(image).resize((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.BOX))
    pixels = image.astype(np.float64)
    background = np.median(pixels, axis=(0, 1))
    coverage, colours, explained = _segment(pixels, background)
    objects = tuple(
        _recognise_object(share, name)
        for index, name in enumerate(COLOURS)
        for share in _separate(np.where(colours == index, coverage, 0.0))
    )
    left_over = np.linalg.norm(pixels - explained, axis=-1) > UNEXPLAINED
    return Recognition(_background(pixels, background), objects, len(_regions(left_over)))


def _background(pixels: np.ndarray, median: np.ndarray) -> str | None:
    """The background's name, if the median colour is one and enough of the image has it."""
    distances = {name: np.linalg.norm(median - colour) for name, colour in BACKGROUNDS.items()}
    name = min(distances, key=lambda key: distances[key])
    area = np.mean(np.linalg.norm(pixels - median, axis=-1) < COLOUR_TOLERANCE)
    return name if distances[name] < COLOUR_TOLERANCE and area >= BACKGROUND_AREA else None


def _segment(pixels: np.ndarray, background: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Explain an image as objects of palette colours over a background, all as the image has them.

    A pixel belongs to the colour of the nearest solid patch: at an antialiased edge between red and white lies pink,
    but such an edge is too thin to survive an erosion.

    Returns:
        (H, W) in [0, 1], how much of each pixel its object covers; (H, W) int, that object's place in the palette;
        (H, W, 3) the image so explained.
    """
    distances = np.linalg.norm(pixels[:, :, None] - PALETTE, axis=-1)
    named = np.where(distances.min(axis=-1) < COLOUR_TOLERANCE, distances.argmin(axis=-1), -1)
    patches = [ndimage.binary_erosion(named == index, CROSS) for index in range(len(PALETTE))]
    solid = np.any(patches, axis=0)
    if not solid.any():
        return np.zeros(named.shape), np.full(named.shape, -1), np.broadcast_to(background, pixels.shape)
    actual = np.array([np.median(pixels[patch], axis=0) if patch.any() else background for patch in patches])
    nearest = ndimage.distance_transform_edt(~solid, return_distances=False, return_indices=True)
    colours = named[tuple(np.asarray(nearest))]
    step = actual[colours] - background
    coverage = (((pixels - background) * step).sum(axis=-1) / (step**2).sum(axis=-1)).clip(0, 1)
    return coverage, colours, background + coverage[..., None] * step


def _regions(mask: np.ndarray) -> list[np.ndarray]:
    """Connected regions of a mask, as masks, without the negligibly small."""
    labels, count = ndimage.label(mask, SQUARE)  # pyright: ignore[reportGeneralTypeIssues]
    regions = (labels == label for label in range(1, count + 1))
    return [region for region in regions if region.mean() >= SMALLEST_AREA]


def _separate(coverage: np.ndarray) -> list[np.ndarray]:
    """The coverage of one colour -> the coverage of each of its objects, antialiased edges included."""
    regions = _regions(coverage > 0.5)
    halos = [ndimage.binary_dilation(region, SQUARE, iterations=2) for region in regions]
    return [
        np.where(halo & ~np.any([other for other in regions if other is not region], axis=0), coverage, 0.0)
        for region, halo in zip(regions, halos, strict=True)
    ]


def _recognise_object(coverage: np.ndarray, colour: str) -> RecognisedObject:
    """(H, H) coverage in [0, 1] of one object -> its size, shape and place."""
    coverage = _sharpen(coverage)
    cells = (np.arange(len(coverage)) + 0.5) / len(coverage)
    x, y = coverage.sum(axis=0) @ cells / coverage.sum(), coverage.sum(axis=1) @ cells / coverage.sum()
    radii = {shape: np.sqrt(coverage.mean() / area) for shape, area in UNIT_AREAS.items()}
    overlaps = {
        shape: _overlap(coverage, _sharpen(_draw(OUTLINES[shape] * radii[shape] + (x, y), len(coverage))))
        for shape in OUTLINES
    }
    shape = max(overlaps, key=lambda key: overlaps[key])
    sizes = [size for size, r in SIZES.items() if abs(radii[shape] / r - 1) < SIZE_TOLERANCE]
    known = overlaps[shape] >= OVERLAP[shape]
    return RecognisedObject(
        size=sizes[0] if sizes else None,
        colour=colour,
        shape=shape if known else None,
        x=float(x),
        y=float(y),
        radius=float(radii[shape]),
        overlap=float(overlaps[shape]),
    )


def _draw(outline: np.ndarray, side: int, oversampling: int = 8) -> np.ndarray:
    """The coverage of each of side × side pixels by the inside of an outline (points, 2)."""
    image = Image.new("L", (side * oversampling, side * oversampling))
    ImageDraw.Draw(image).polygon((outline * side * oversampling).ravel().tolist(), fill=255)
    return np.asarray(image.reduce(oversampling)) / 255


def _sharpen(coverage: np.ndarray) -> np.ndarray:
    """Halve the width of every edge, so that the slight blur of a decoder matters less."""
    return (2 * coverage - 0.5).clip(0, 1)


def _overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two coverages."""
    return np.minimum(first, second).sum() / np.maximum(first, second).sum()
