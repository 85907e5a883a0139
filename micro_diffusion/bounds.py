"""Numbers with bounds, declared beside an argument, as in `depth: PositiveInt`.

A configuration is checked against them before anything is built; Python callers are not. They are of the tiny library
annotated-types, so that networks need no pydantic. A number without bounds is any finite one.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Interval

PositiveInt = Annotated[int, Ge(1)]
NonNegativeInt = Annotated[int, Ge(0)]
Seed = Annotated[int, Interval(ge=0, le=2**32 - 1)]
"""What every random generator takes, numpy's too."""
Byte = Annotated[int, Interval(ge=0, le=255)]

PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
Fraction = Annotated[float, Interval(ge=0, le=1)]
FractionBelow1 = Annotated[float, Interval(ge=0, lt=1)]
OpenFraction = Annotated[float, Interval(gt=0, lt=1)]
