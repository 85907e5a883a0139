"""Images while they are generated, for somebody who asks for the next news rather than being called with them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from threading import Event, Thread

from PIL import Image

from micro_diffusion.generation.preview import Preview

Images = list[Image.Image]


class _Abandoned(Exception):
    """Nobody waits for the images any more."""


def followed(
    make: Callable[[Callable[[Preview], object]], Images], *, seconds: float = 0.5
) -> Iterator[tuple[str, Images]]:
    """What there is so far, in words and images, and at last "" and the images themselves.

    A thread generates. When the iterator is closed before its end, the thread ends at its next network call.

    Args:
        make: generates; calls what it is given with previews.
        seconds: between two previews, at least, because decoding them takes time too.
    """
    news: SimpleQueue[tuple[str, Images] | BaseException] = SimpleQueue()
    abandoned, shown = Event(), time.monotonic()

    def on_preview(preview: Preview) -> None:
        nonlocal shown
        if abandoned.is_set():
            raise _Abandoned
        if time.monotonic() - shown >= seconds:
            news.put((f"step {preview.step} of {preview.steps}", preview.images()))
            shown = time.monotonic()

    def work() -> None:
        try:
            news.put(("", make(on_preview)))
        except BaseException as error:  # whoever waits is told
            news.put(error)

    Thread(target=work, name="generation", daemon=True).start()
    try:
        said = "begun"
        while said:
            one = news.get()
            if isinstance(one, BaseException):
                raise one
            said = one[0]
            yield one
    finally:
        abandoned.set()
