"""Numbers and tables as the lab's page shows them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from micro_diffusion.lab.comparison import Difference
from micro_diffusion.lab.results import Result

Runs = Mapping[int, Result]
"""The runs of one experiment by seed."""


def signed(apart: Difference) -> str:
    """A difference with its standard error; nothing where one of the two was not there yet."""
    if math.isnan(apart.of.value):
        return ""
    error = "" if math.isnan(apart.of.error) else f" ± {apart.of.error:.4f}"
    return f"{apart.of.value:+.4f}{error}"


def made(runs: Sequence[Result]) -> str:
    """Of which bench, day, budget and how many seeds runs of one experiment are."""
    one, day = runs[0], max(run.date for run in runs).partition(" ")[0]
    return f"{one.bench}, {day}, {one.budget / 1e12:g} TFLOP, {len(runs)} seed{'s' * (len(runs) > 1)}"


def finding(runs: Sequence[Result], what: str, apart: Difference, p: float, verdict: str) -> str:
    """The result of an experiment in a line."""
    told = "" if math.isnan(p) else f", p {p_value(p)}"
    return f"{made(runs)}: {what}, {signed(apart)}{told}: {verdict}"


def p_value(p: float) -> str:
    """Short."""
    return "" if math.isnan(p) else ("< 0.001" if p < 0.001 else f"{p:.3f}")


def markdown_table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    first, *others = (f"| {' | '.join(cells)} |" for cells in (heading, *rows))
    return [first, "|" + "---|" * len(heading), *others]
