"""What every source of captioned pictures offers. A source only yields; checking and writing is the conversion's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from PIL import Image


class CaptionedImage(NamedTuple):
    """One picture and what it shows.

    image: the content of an image file, not yet decoded, or a picture that was drawn.
    key: names the picture within its source, always the same.
    further_captions: others of the same picture, as many for each picture of a source; "" for one that is missing.
    """

    image: Image.Image | bytes
    caption: str
    key: str
    further_captions: tuple[str, ...] = ()


class Rejected(NamedTuple):
    """A picture that cannot be used, and why, in words that are the same for all pictures of that kind."""

    key: str
    reason: str


def captioned(image: Image.Image | bytes, key: str, *kinds: Sequence[str], count: int = 1) -> CaptionedImage | Rejected:
    """A picture with its captions, or its rejection when it has none.

    Args:
        image: the picture.
        key: of the picture.
        kinds: the captions of each kind, such as those of one column.
        count: how many of each kind are taken, in their order.
    """
    if not any(kinds):
        return Rejected(key, "no caption")
    first, *further = [text for kind in kinds for text in (*kind[:count], *[""] * (count - len(kind)))]
    return CaptionedImage(image, first, key, tuple(further))


def texts_of(value: Any) -> list[str]:
    """The captions in a cell of a table or a field of JSON: a text, a list of texts, or None."""
    return [str(text) for text in (value if isinstance(value, list) else [value]) if text is not None]


def kinds_of(caption: str | Sequence[str]) -> tuple[str, ...]:
    """Where the captions are: one place, or one for each kind of caption."""
    return (caption,) if isinstance(caption, str) else tuple(caption)


def check_captions(captions: int) -> None:
    """Raise ValueError when not a single caption of a picture is taken."""
    if captions < 1:
        raise ValueError(f"captions is {captions}; set source.captions to how many of a picture are taken, at least 1")


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
