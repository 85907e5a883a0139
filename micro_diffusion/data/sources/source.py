"""What every source of captioned pictures offers. A source only yields; checking and writing is the conversion's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from PIL import Image


class CaptionedImage(NamedTuple):
    """One picture and what it shows.

    image: the content of an image file, not yet decoded, or a picture that was drawn.
    key: names the picture within its source, always the same.
    """

    image: Image.Image | bytes
    caption: str
    key: str


class Rejected(NamedTuple):
    """A picture that cannot be used, and why, in words that are the same for all pictures of that kind."""

    key: str
    reason: str


@runtime_checkable
class Source(Protocol):
    """Captioned pictures in parts that can be read by several processes at a time.

    A source is a frozen dataclass, so that it can be sent to another process, and its fields recorded beside what was
    made from it.
    """

    def __len__(self) -> int:
        """Number of pictures, those that will be rejected included."""
        ...

    def parts(self) -> Sequence[Any]:
        """What `read` takes: small descriptions of some tens of pictures each, in the order of the data set."""
        ...

    def read(self, part: Any) -> Iterator[CaptionedImage | Rejected]:
        """The pictures of one part, in order."""
        ...
