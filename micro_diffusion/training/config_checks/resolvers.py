"""Configuration values that follow from the machine or from other values."""

from __future__ import annotations

from typing import Any

import torch
from omegaconf import OmegaConf


def by_device(gpu: Any, cpu: Any) -> Any:
    """The first value where there is a CUDA device, the second where there is none."""
    return gpu if torch.cuda.is_available() else cpu


def divide(a: Any, b: Any) -> int:
    """a / b, which must be whole.

    Raises:
        ValueError: when it is not, naming the nearest numbers that are divisible; and for anything but whole numbers
            above 0.
    """
    if type(a) is not int or type(b) is not int:
        raise ValueError(f"{a!r} cannot be divided by {b!r}; set both to whole numbers")
    if b < 1:
        raise ValueError(f"{a} cannot be divided by {b}; divide by 1 or more")
    if a % b or a < 1:
        nearest = [str(number) for number in (a - a % b, a - a % b + b) if number > 0] or [str(b)]
        raise ValueError(f"{a} is not divisible by {b}; use {' or '.join(nearest)}")
    return a // b


def length(values: Any) -> int:
    """How many values a list has; 0 for null."""
    return 0 if values is None else len(values)


def classes(names: Any) -> Any:
    """The names of the classes; one that stands for all of them where they are null, until the data say more."""
    return ["0"] if names is None else names


def add(a: int, b: int) -> int:
    """a + b."""
    return a + b


def register_resolvers() -> None:
    """Make `by_device`, `divide`, `add`, `length` and `classes` known to OmegaConf, as in `${divide:A,B}`."""
    OmegaConf.register_new_resolver("add", add, replace=True)
    OmegaConf.register_new_resolver("classes", classes, replace=True)
    OmegaConf.register_new_resolver("length", length, replace=True)
    OmegaConf.register_new_resolver("by_device", by_device, replace=True)
    OmegaConf.register_new_resolver("divide", divide, replace=True)
