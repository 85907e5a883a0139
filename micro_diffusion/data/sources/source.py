"""What every source of captioned pictures offers. A source only yields; checking and writing is the conversion's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from PIL import Image

Captions = Literal["first", "all"]
"""Which captions of a picture that has several are taken."""


class CaptionedImage(NamedTuple):
    """One picture and what it shows.

    image: the content of an image file, not yet decoded, or a picture that was drawn.
    key: names the picture within its source, always the same.
    further_captions: others of the same picture; each becomes a row of its own.
    """

    image: Image.Image | bytes
    caption: str
    key: str
    further_captions: tuple[str, ...] = ()


class Rejected(NamedTuple):
    """A picture that cannot be used, and why, in words that are the same for all pictures of that kind."""

    key: str
    reason: str


def captioned(
    image: Image.Image | bytes, captions: Sequence[str], key: str, *, take: Captions
) -> CaptionedImage | Rejected:
    """A picture with the first or all of its captions, or its rejection when it has none."""
    if not captions:
        return Rejected(key, "no caption")
    return CaptionedImage(image, captions[0], key, tuple(captions[1:]) if take == "all" else ())


def check_captions(captions: Captions) -> None:
    """Raise ValueError when `captions` is neither "first" nor "all"."""
    if captions not in ("first", "all"):
        raise ValueError(f"captions is {captions!r}; set it to first or all")


@runtime_checkable
class Source(Protocol):
    """Captioned pictures in parts that can be read by several processes at a time, on one machine or on many.

    A source is a frozen dataclass, so that it can be sent to another process, and its fields recorded beside what was
    made from it.
    """

    def __len__(self) -> int:
        """Number of pictures, those that will be rejected included; about, where only reading them all would tell."""
        ...

    def parts(self) -> Sequence[Any]:
        """What `read` takes, always the same and in the order of the data set: names of archives, ranges of rows."""
        ...

    def read(self, part: Any) -> Iterator[CaptionedImage | Rejected]:
        """The pictures of one part, in order, one at a time: a part may be larger than memory."""
        ...
