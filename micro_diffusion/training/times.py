"""Composer's times as arguments, such as `1000ba` (steps), `2ep` (epochs) or `0.5dur`."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Predicate
from composer import Time

from micro_diffusion.bounds import PositiveInt


def _is_positive(time: int | str) -> bool:
    return Time.from_input(time, "ep").value > 0


def _is_no_share(time: int | str) -> bool:
    return not str(time).endswith("dur")


Interval = Annotated[PositiveInt | str | Time, Predicate(_is_positive)]
Duration = Annotated[Interval, Predicate(_is_no_share)]
"""Of a whole training, of which it cannot be a share itself."""
