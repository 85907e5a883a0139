"""Which part of an image is encoded, and in which shape. H W height and width in pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from micro_diffusion.bounds import PositiveInt, Seed
from micro_diffusion.data.keyed_random import uniform


class Crop(Protocol):
    """A rectangle of one shape, cut out of an image as large as it fits; a frozen dataclass, for the record."""

    def takes(self, width: int, height: int) -> bool:
        """Whether an image of that size is used at all."""
        ...

    def size(self, resolution: int) -> tuple[int, int]:
        """(H, W) to which the rectangle is resized."""
        ...

    def place(self, key: str) -> float:
        """Where it lies along the longer side: 0 at the left or top end, 0.5 in the middle, 1 at the other end."""
        ...


@dataclass(frozen=True, kw_only=True)
class CentreSquare:
    """The square in the middle."""

    def takes(self, width: int, height: int) -> bool:
        """All images."""
        return True

    def size(self, resolution: int) -> tuple[int, int]:
        """As many pixels on each side."""
        return resolution, resolution

    def place(self, key: str) -> float:
        """In the middle."""
        return 0.5


@dataclass(frozen=True, kw_only=True)
class RandomSquare(CentreSquare):
    """A square anywhere, for each image always the same one, at all resolutions.

    Args:
        seed: of the draws, which follow from it and the image's key alone.
    """

    seed: Seed = 0

    def place(self, key: str) -> float:
        """Uniform in [0, 1)."""
        return uniform("crop", self.seed, key)


@dataclass(frozen=True, kw_only=True)
class AspectRatioBucket:
    """The images whose shape is nearest to one of several, cut to that shape; the others are left to other buckets.

    Each bucket becomes a folder of its own, so that a loader can batch one shape at a time. All have about the area of
    the square of their resolution.

    Args:
        ratio: of this bucket, width:height, such as "4:3".
        among: the ratios of all buckets, this one among them.
        multiple: of which both sides are made, pixels: the autoencoder's downsampling times the patch size.
    """

    ratio: str
    among: Sequence[str] = ("1:1", "4:3", "3:4", "3:2", "2:3", "16:9", "9:16")
    multiple: PositiveInt = 16

    def __post_init__(self) -> None:
        object.__setattr__(self, "among", tuple(self.among))
        if self.ratio not in self.among:
            raise ValueError(f"crop.ratio {self.ratio} is none of crop.among; set it to one of {', '.join(self.among)}")

    def takes(self, width: int, height: int) -> bool:
        """Whether this is the nearest bucket, by the factor between the ratios; the first of two equally near ones."""
        shape = math.log(width / height)
        return self.ratio == min(self.among, key=lambda ratio: abs(math.log(_value(ratio)) - shape))

    def size(self, resolution: int) -> tuple[int, int]:
        """The sides nearest to the ratio and the area."""
        root = math.sqrt(_value(self.ratio))
        height, width = (max(1, round(side / self.multiple)) for side in (resolution / root, resolution * root))
        return height * self.multiple, width * self.multiple

    def place(self, key: str) -> float:
        """In the middle."""
        return 0.5


@dataclass(frozen=True, kw_only=True)
class AspectRatioBuckets:
    """Several shapes, each image in the nearest: a bucket for each, in a folder of its own.

    Args:
        ratios: of the buckets, width:height.
        multiple: of which all sides are made, pixels: the autoencoder's downsampling times the patch size.
    """

    ratios: Sequence[str] = ("1:1", "4:3", "3:4", "3:2", "2:3", "16:9", "9:16")
    multiple: PositiveInt = 16

    def __post_init__(self) -> None:
        if not self.ratios or len(set(self.ratios)) < len(self.ratios):
            raise ValueError(f"crop.ratios is {list(self.ratios)}; set it to aspect ratios, each once")

    def buckets(self) -> dict[str, AspectRatioBucket]:
        """The buckets by the names of their folders, such as 4x3."""
        return {
            ratio.replace(":", "x"): AspectRatioBucket(ratio=ratio, among=self.ratios, multiple=self.multiple)
            for ratio in self.ratios
        }


def _value(ratio: str) -> float:
    """Width over height: 1.333 for "4:3"."""
    width, separator, height = ratio.partition(":")
    try:
        value = float(width) / float(height)
    except (ValueError, ZeroDivisionError):
        value = 0.0
    if not separator or not 0 < value < math.inf:
        raise ValueError(f"the aspect ratio {ratio!r} is not understood; write it as width:height, such as 4:3")
    return value
