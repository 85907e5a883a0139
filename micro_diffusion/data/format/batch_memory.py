"""Memory of batches, used again when a batch is gone.

The system clears every new page before it hands it out, which takes longer than what is then written to it.

Legend: B captions, L tokens, D width.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_KEPT = 2  # a loop holds one batch while the next is made


@dataclass(eq=False)
class _Room:
    """An array (B, L, D), how many rows of each caption may differ from zero, and whether a tensor lies on it."""

    array: NDArray[np.float16]
    written: Sequence[int]
    in_use: Callable[[], object | None]


class CaptionMemory:
    """Half-precision tensors (B, L, D) of captions with zeros after their last rows.

    A tensor's memory is given again once neither it nor a view of it exists. Whoever writes to the zeros of a batch in
    place, would find that in a later one.
    """

    def __init__(self) -> None:
        self._rooms: list[_Room] = []

    def __reduce__(self) -> tuple[type[CaptionMemory], tuple[()]]:
        return CaptionMemory, ()  # a copy in another process has memory of its own

    def tensor(self, rows: Sequence[int], length: int, dim: int) -> Tensor:
        """(B, L, D), zero but for the first rows of each caption, which are to be written."""
        shape = (len(rows), length, dim)
        for room in self._rooms:
            if room.array.shape == shape and room.in_use() is None:
                for caption, now, before in zip(room.array, rows, room.written, strict=True):
                    if now < before:
                        caption[now:before] = 0
                return _lent(room, rows)
        # numpy leaves it to the system to fill pages with zeros, and those that are never written cost nothing
        room = _Room(np.zeros(shape, np.float16), rows, lambda: None)
        self._rooms = [*self._rooms[1 - _KEPT :], room]
        return _lent(room, rows)


def _lent(room: _Room, rows: Sequence[int]) -> Tensor:
    """A tensor on a room. All tensors on the same memory share the one reference to this view of it."""
    view = room.array.view()
    room.written, room.in_use = rows, weakref.ref(view)
    return torch.from_numpy(view)
