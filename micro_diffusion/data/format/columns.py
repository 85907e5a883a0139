"""Columns of MDS rows as bytes, and formats that are written down beside them. Legend: B rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Form = TypeVar("Form")

RawColumn = Sequence[bytes | bytearray] | NDArray[np.uint8]
"""The bytes of one column in B rows: B buffers, or for a column of constant size also an array (B, bytes)."""

RawColumns = Mapping[str, RawColumn]

Entries = Sequence[Any] | NDArray[Any]
"""What a column is written from: an entry for each of B rows, as `MDSWriter` takes them."""


def ndarray_encoding(dtype: type[np.generic], shape: tuple[int, ...]) -> str:
    """What MDS calls a column of arrays of one shape, which it stores without any header."""
    return f"ndarray:{np.dtype(dtype).name}:{','.join(map(str, shape))}"


def array_column(column: RawColumn, dtype: type[np.generic], shape: tuple[int, ...]) -> NDArray[Any]:
    """A column of arrays -> all of them, row after row (N, *shape); N is B where each row holds one."""
    joined = column if isinstance(column, np.ndarray) else np.frombuffer(bytearray().join(column), np.uint8)
    return joined.view(dtype).reshape(-1, *shape)


def text_column(column: RawColumn) -> list[str]:
    """A column of strings."""
    return [bytes(text).decode("utf-8") for text in column]


def describe(form: Any) -> dict[str, Any]:
    """A format's name and settings, for the metadata."""
    return {"name": form.name, **asdict(form)}


def restored(described: Mapping[str, Any], kinds: Mapping[str, Callable[..., Form]]) -> Form:
    """The format that `describe` has described.

    Raises:
        ValueError: when its name is none of `kinds`.
    """
    settings = dict(described)
    name = settings.pop("name")
    if name not in kinds:
        raise ValueError(
            f"the data are stored as {name!r}, but this version knows {', '.join(kinds)}; precompute again, or update"
        )
    return kinds[name](**settings)
