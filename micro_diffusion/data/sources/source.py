"""What every source of captioned images offers. A source only yields; checking and writing is the conversion's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from PIL import Image


class CaptionedImage(NamedTuple):
    """One image and what it shows.

    image: the content of an image file, not yet decoded, or an image that was drawn.
    key: names the image within its source, always the same.
    further_captions: others of the same image, as many for each image of a source; "" for one that is missing.
    """

    image: Image.Image | bytes
    caption: str
    key: str
    further_captions: tuple[str, ...] = ()


class Rejected(NamedTuple):
    """An image that cannot be used, and why, in words that are the same for all images of that kind."""

    key: str
    reason: str


def captioned(image: Image.Image | bytes, key: str, *kinds: Any, count: int = 1) -> CaptionedImage | Rejected:
    """An image with its captions, or its rejection when it has none, or something else than texts.

    Args:
        image: the image.
        key: of the image.
        kinds: the captions of each kind, such as the cell of one column: a text, several in their order, or None.
        count: how many of each kind are taken.
    """
    listed = [kind if isinstance(kind, list | tuple) else [kind] for kind in kinds]
    texts = [[text for text in each if text is not None] for each in listed]
    if not all(isinstance(text, str) for each in texts for text in each):
        return Rejected(key, "caption is no text")
    if not any(texts):
        return Rejected(key, "no caption")
    first, *further = [text for each in texts for text in (*each[:count], *[""] * (count - len(each)))]
    return CaptionedImage(image, first, key, tuple(further))


def named_class(cell: Any, names: Sequence[str] | None) -> Any:
    """The names of classes in place of their numbers in a cell, a number or several; other cells as they are.

    Raises:
        LookupError: for a number that has no name.
    """
    if names is None:
        return cell
    if isinstance(cell, list | tuple):
        return [named_class(each, names) for each in cell]
    if not isinstance(cell, int) or isinstance(cell, bool):
        return cell
    if not 0 <= cell < len(names):
        raise LookupError(f"there is no class {cell}")
    return names[cell]


def text_of(content: bytes) -> str:
    """What a text file says, in UTF-8; other bytes become halves of characters, for which captions are rejected."""
    return content.decode("utf-8-sig", errors="surrogateescape")


def kinds_of(caption: str | Sequence[str]) -> tuple[str, ...]:
    """Where the captions are: one place, or one for each kind of caption."""
    return (caption,) if isinstance(caption, str) else tuple(caption)


def check_captions(captions: int, *, single: Sequence[str] = ()) -> None:
    """Raise ValueError when not a single caption of an image is taken, or several where there is one.

    Args:
        captions: how many are taken.
        single: names of what holds one caption of each image.
    """
    if captions < 1:
        raise ValueError(f"captions is {captions}; set source.captions to how many of an image are taken, at least 1")
    if captions > 1 and single:
        raise ValueError(
            f"captions is {captions}, but {' and '.join(single)} holds one of each image; set source.captions=1, or "
            "name what holds lists of them"
        )


@runtime_checkable
class Source(Protocol):
    """Captioned images in parts that can be read by several processes at a time, on one machine or on many.

    A source is a frozen dataclass, so that it can be sent to another process, and its fields recorded beside what was
    made from it.
    """

    def __len__(self) -> int:
        """Number of images, those that will be rejected included; about, where only reading them all would tell."""
        ...

    def parts(self) -> Sequence[Any]:
        """What `read` takes, always the same and in the order of the data set: names of archives, ranges of rows."""
        ...

    def read(self, part: Any) -> Iterator[CaptionedImage | Rejected]:
        """The images of one part, in order, one at a time: a part may be larger than memory."""
        ...

    def files_of(self, part: Any) -> Iterable[Path]:
        """The files that a part is read from, by whose sizes and times a change is noticed; none of what is drawn."""
        return ()
