"""Statistics of few seeds: means with standard errors, tests of differences, and what may be said of them."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from scipy import stats

LEVEL = 0.05
"""Of the tests: the share of differences called one that are none."""


class Mean(NamedTuple):
    """value: the mean. error: its standard error, nan for one seed. count: of seeds."""

    value: float
    error: float
    count: int

    def __format__(self, spec: str) -> str:
        spec = spec or ".4f"
        return f"{self.value:{spec}}" + ("" if math.isnan(self.error) else f" ± {self.error:{spec}}")


class Difference(NamedTuple):
    """of: ours minus theirs. welch, paired: p-values of a difference of 0, nan where seeds are too few."""

    of: Mean
    welch: float
    paired: float


def mean(values: Sequence[float]) -> Mean:
    """The mean of the values; nan of none, and with one that is."""
    count = len(values)
    if not values or any(map(math.isnan, values)):
        return Mean(math.nan, math.nan, count)
    error = statistics.stdev(values) / math.sqrt(count) if count > 1 else math.nan
    return Mean(statistics.fmean(values), error, count)


def difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Difference:
    """Between two experiments, each a value by seed.

    Welch's test takes the seeds of either for independent samples of unequal variance. The paired one takes the
    differences of equal seeds, which share the order of the data and the first weights of equal layers; the standard
    error of the difference is that of Welch. Where these differences are all the same, the paired test
    is nan: they tell nothing of their spread.
    """
    a, b = mean(list(ours.values())), mean(list(theirs.values()))
    apart = Mean(a.value - b.value, math.hypot(a.error, b.error), min(a.count, b.count))
    if apart.count < 2:
        return Difference(apart, math.nan, math.nan)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Precision loss")  # where seeds agree, the spread is that of the other side
        welch = _p(stats.ttest_ind(list(ours.values()), list(theirs.values()), equal_var=False))
    each = by_seed(ours, theirs)
    paired = _p(stats.ttest_1samp(each, 0.0)) if len(each) > 1 and max(each) - min(each) > 1e-9 else math.nan
    return Difference(apart, welch, paired)


def by_seed(ours: Mapping[int, float], theirs: Mapping[int, float]) -> list[float]:
    """Ours minus theirs, of the seeds that both have."""
    return [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]


def _p(test: Any) -> float:
    """Of a test of scipy, whose types do not tell."""
    return float(test.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number (Holm 1979), so that with all of them one in twenty tables errs; nan stays."""
    known = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    adjusted, largest = [math.nan] * len(p_values), 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        adjusted[i] = largest
    return adjusted


def verdict(difference: Difference, adjusted: float, *, lower_is_better: bool = True) -> str:
    """In words; a difference that one of so many comparisons shows by chance is called likely, not more."""
    if difference.of.count < 2:
        return "too few seeds"
    if not difference.welch < LEVEL:  # nan where all are the same
        return "within noise"
    said = "better" if (difference.of.value < 0) == lower_is_better else "worse"
    return said if adjusted < LEVEL else f"likely {said}"
