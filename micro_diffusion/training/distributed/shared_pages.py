"""Memory that a trainer shares with the loader workers that it forks."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def shared_with_workers() -> Iterator[None]:
    """Keep the garbage collector away from all objects that are there already.

    It writes a mark into every object that it looks at, and the kernel then copies the page for that process, more than
    100 MB for the libraries alone, at some step or other of a training.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
