"""Numbers as 8-bit integers and back, each way with a bound of its error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float32]


def check_finite(values: Tensor, what: str, names: Sequence[str]) -> None:
    """Raise ValueError where a number of B entries, called `names`, is not finite in half precision."""
    finite = values.half().isfinite().flatten(1).all(dim=1)
    if not finite.all():
        raise ValueError(
            f"the {what} are not finite in float16, first for {names[int(finite.int().argmin())]!r}; use that encoder "
            "in a wider floating-point type, such as float32"
        )


def to_int8(values: Floats, *, axes: int | tuple[int, ...]) -> tuple[NDArray[np.int8], Floats]:
    """Integers from -127 to 127 and the scale that gives the numbers back, |value - code·scale| <= scale/2.

    Args:
        values: finite numbers.
        axes: that share a scale, which is their largest absolute value divided by 127; 0 where all are 0.

    Returns:
        Codes of the values' shape, and scales of that shape without `axes`.

    Raises:
        ValueError: when a number is not finite.
    """
    _check_numbers(values)
    scale = np.abs(values).max(axis=axes, keepdims=True).astype(np.float32) / np.float32(127)
    codes = np.divide(values, scale, out=np.zeros(values.shape, np.float32), where=scale > 0)
    # a scale so small that it has few bits can be rounded down: without the limits a code would wrap around
    return np.rint(codes).clip(-127, 127).astype(np.int8), scale.squeeze(axes)


def from_int8(codes: Tensor, scale: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The numbers of `to_int8`; `scale` has an axis of size 1, or none in front, where `codes` share one.

    Computed in float32, and rounded to the type of `out`, where they are written to it.
    """
    numbers = codes.float().mul_(scale)  # faster than a product of both types, for which torch makes further copies
    return numbers if out is None else out.copy_(numbers)


def to_uint8(values: Floats, *, limit: float, clip: bool = False) -> NDArray[np.uint8]:
    """Integers from 0 for -limit to 255 for +limit, |value - decoded| <= limit/255.

    clip: store numbers beyond the limit as the limit itself.

    Raises:
        ValueError: when a number is not finite, or is beyond the limit and not to be clipped.
    """
    _check_numbers(values)
    largest = float(np.abs(values).max(initial=0.0))
    if largest > limit and not clip:
        raise ValueError(
            f"{largest:.6g} is beyond the limit {limit:g} of 8-bit storage; raise latent_format.limit, or set "
            "latent_format.clip=true to have such numbers clipped"
        )
    values = values.clip(-limit, limit)
    return np.rint((values / np.float32(limit) + 1) * np.float32(127.5)).astype(np.uint8)


def from_uint8(codes: NDArray[np.uint8], *, limit: float) -> Floats:
    """The numbers of `to_uint8`."""
    return codes * np.float32(limit / 127.5) - np.float32(limit)


def _check_numbers(values: Floats) -> None:
    if not np.isfinite(values).all():
        raise ValueError("numbers that are not finite cannot be stored in 8 bits; use a wider floating-point type")
