"""Experiments that change only how images are made: their scores beside those of the same weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from micro_diffusion.lab.comparison import Difference, by_seed, difference, holm, mean, verdict
from micro_diffusion.lab.results import Result
from micro_diffusion.lab.words import Runs, finding, markdown_table, p_value, signed

KINDS = ("single", "two", "held_out")
HEADING = (
    "images", "seeds", "network calls each", "single", "two", "held out", "mean", "against", "Δ of the mean",
    "p paired", "verdict",
)  # fmt: skip


class Scored(NamedTuple):
    """An experiment beside its parent, by the mean over the kinds of prompts.

    adjusted: Holm's p of the paired test, for both are images of the same weights.
    """

    name: str
    apart: Difference
    adjusted: float

    @property
    def verdict(self) -> str:
        """What may be said of it."""
        paired = self.apart._replace(welch=self.apart.paired)
        return verdict(paired, self.adjusted, lower_is_better=False)


def scored(runs: Mapping[str, Runs], sampled: Mapping[str, Runs]) -> list[Scored]:
    """Every experiment whose parent has images, too."""
    rows = []
    for name, ours in sampled.items():
        theirs = runs.get(next(iter(ours.values())).parent or "", {})
        if theirs and all(run.scores for run in theirs.values()):
            a, b = ({seed: right(run) for seed, run in each.items()} for each in (ours, theirs))
            rows.append((name, difference(a, b)._replace(of=mean(by_seed(a, b)))))
    adjusted = holm([apart.paired for _, apart in rows])
    return [Scored(*row, adjusted=p) for row, p in zip(rows, adjusted, strict=True)]


def right(run: Result) -> float:
    """The fraction of images right in everything, the mean over kinds of prompts."""
    return fmean(run.scores[kind] for kind in KINDS)


def images_table(runs: Mapping[str, Runs], sampled: Mapping[str, Runs]) -> list[str]:
    """One row an experiment, the best difference first."""
    rows = {row.name: row for row in scored(runs, sampled)}
    order = sorted(sampled, key=lambda name: -rows[name].apart.of.value if name in rows else math.inf)
    lines = []
    for name in order:
        mine = list(sampled[name].values())
        cells = [name, str(len(mine)), f"{mine[0].scores.get('calls', math.nan):.0f}", *_fractions(mine)]
        if (row := rows.get(name)) is None:
            cells += [""] * 4
        else:
            cells += [mine[0].parent or "", signed(row.apart), p_value(row.apart.paired), row.verdict]
        lines.append(cells)
    return markdown_table(HEADING, lines)


def _fractions(runs: Sequence[Result]) -> list[str]:
    kinds = [f"{mean([run.scores[kind] for run in runs]):.2f}" for kind in KINDS]
    return [*kinds, f"{mean([right(run) for run in runs]):.2f}"]


def scored_sentence(runs: Mapping[str, Runs], row: Scored) -> str:
    """The result of an experiment in a line."""
    mine = list(runs[row.name].values())
    found = mean([right(run) for run in mine])
    return finding(mine, f"right {found:.3f}", row.apart, row.apart.paired, row.verdict)
