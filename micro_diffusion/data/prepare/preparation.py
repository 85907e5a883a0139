"""One captioned image to one row of MDS images, checked; what is unfit is named and why."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image

from micro_diffusion.bounds import NonNegativeInt, OpenFraction, PositiveInt
from micro_diffusion.data.image.open_image import OpenedImage, UnreadableImage, read_image
from micro_diffusion.data.image.transforms import shrink, to_rgb
from micro_diffusion.data.keyed_random import uniform
from micro_diffusion.data.sources.source import CaptionedImage, Rejected

COLUMNS = {
    "image": "bytes",
    "caption": "str",
    "further_captions": "json",
    "key": "str",
    "width": "int",
    "height": "int",
}
"""Columns of MDS images; further_captions is a list of texts, width and height are the image's, in pixels."""

REPLACED = ", replaced by another one of the image"
"""Ends the reason of a rejected caption whose image stays."""

KEPT_FORMATS = {"JPEG", "MPO", "PNG", "WEBP"}
"""MPO is a JPEG with others after it, which phones write."""

Split = Literal["all", "train", "eval"]


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How images are checked and encoded.

    Args:
        minimum_side: images whose shorter side has fewer pixels are rejected.
        minimum_bytes: image files that are smaller are rejected, such as icons and placeholders; an image that a source
            draws has no file.
        shorter_side: images whose shorter side has more pixels are shrunk to it; None for no such limit.
        longer_side: the same for the longer side.
        split: "train" leaves out the images of "eval", "all" keeps both. Which image belongs to which follows
            from its key alone.
        eval_fraction: of images that belong to "eval", in (0, 1).
    """

    minimum_side: PositiveInt = 1
    minimum_bytes: NonNegativeInt = 0
    shorter_side: PositiveInt | None = None
    longer_side: PositiveInt | None = None
    split: Split = "all"
    eval_fraction: OpenFraction = 0.05

    def __post_init__(self) -> None:
        if self.split not in ("all", "train", "eval"):
            raise ValueError(f"split is {self.split!r}; set it to all, train or eval")
        for name, side in (("shorter_side", self.shorter_side), ("longer_side", self.longer_side)):
            if side is not None and side < self.minimum_side:
                raise ValueError(f"{name} {side} is below minimum_side {self.minimum_side}; set it to at least that")

    def wants(self, key: str) -> bool:
        """Whether an image belongs to the split."""
        return self.takes(uniform(key))

    def takes(self, place: float) -> bool:
        """Whether the split has a place in [0, 1), which follows from an image's key."""
        return self.split == "all" or (place < self.eval_fraction) == (self.split == "eval")

    def expected(self, count: int) -> int:
        """About how many of `count` images belong to the split."""
        share = {"all": 1.0, "train": 1 - self.eval_fraction, "eval": self.eval_fraction}
        return round(share[self.split] * count)

    def rows(self, item: CaptionedImage | Rejected) -> Iterator[dict[str, Any] | Rejected]:
        """The row of MDS images of an image, if it belongs to the split, and what is rejected of it.

        Of several captions, those that cannot be used are listed as KEY#1, KEY#2 and so on, counted from 1, and the
        first that can be used takes their place.
        """
        if not self.wants(item.key):
            return
        if isinstance(item, Rejected):
            yield item
            return
        if isinstance(item.image, bytes) and len(item.image) < self.minimum_bytes:
            yield Rejected(item.key, f"file below {self.minimum_bytes} bytes")
            return
        try:
            encoded, (width, height) = self.encode(item.image)
        except UnreadableImage:
            yield Rejected(item.key, "unreadable image")
            return
        if min(width, height) < self.minimum_side:
            yield Rejected(item.key, f"shorter side below {self.minimum_side} px")
            return
        texts = [" ".join(text.split()) for text in (item.caption, *item.further_captions)]
        flaws = [_flaw(text) for text in texts]
        usable = [text for text, flaw in zip(texts, flaws, strict=True) if not flaw]
        if not usable:
            yield Rejected(item.key, flaws[0])
            return
        for number, flaw in enumerate(flaws, 1):
            if flaw:
                yield Rejected(f"{item.key}#{number}", flaw + REPLACED)
        caption, *further = [usable[0] if flaw else text for text, flaw in zip(texts, flaws, strict=True)]
        captions = {"caption": caption, "further_captions": further}
        yield {"image": encoded, **captions, "key": item.key, "width": width, "height": height}

    def encode(self, image: Image.Image | bytes) -> tuple[bytes, tuple[int, int]]:
        """The file to store and its (width, height): the image's own where it can stay, decoded once to be sure.

        A shrunk or turned JPEG becomes a JPEG again, everything else a PNG.
        """
        opened = read_image(image) if isinstance(image, bytes) else OpenedImage(to_rgb(image), "", image.size)
        smaller = shrink(opened.rgb, shorter_side=self.shorter_side, longer_side=self.longer_side)
        if isinstance(image, bytes) and opened.format in KEPT_FORMATS and smaller.size == opened.size:
            return image, smaller.size
        buffer = io.BytesIO()
        if opened.format in ("JPEG", "MPO"):
            smaller.save(buffer, "jpeg", quality=95, subsampling=0)
        else:
            smaller.save(buffer, "png", compress_level=1)
        return buffer.getvalue(), smaller.size


def _flaw(caption: str) -> str:
    """Why a caption cannot be used, or ""."""
    if not caption:
        return "empty caption"
    try:
        caption.encode()
    except UnicodeEncodeError:  # JSON can hold halves of characters
        return "caption is no valid Unicode"
    return ""
