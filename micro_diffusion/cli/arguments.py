"""Values of options that argparse does not know by itself."""

from __future__ import annotations

import argparse
import math

import torch


def device(name: str) -> torch.device:
    """A torch device that is there; a ValueError when it is not."""
    try:
        chosen = torch.device(name)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} cannot be used on this machine; use --device cpu") from error
    return chosen


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is too few; use at least 1")
    return number


def price(text: str) -> float:
    """Dollars, at least none, for argparse."""
    dollars = float(text)
    if not 0 <= dollars < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no price; use a number of dollars of at least 0")
    return dollars


def resolution(text: str) -> int | tuple[int, int]:
    """`256` or `HEIGHTxWIDTH`, for argparse."""
    sides = [int(side) for side in text.lower().split("x")]
    if len(sides) > 2:
        raise argparse.ArgumentTypeError(f"{text!r} has {len(sides)} sides; use one number, or HEIGHTxWIDTH")
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])
