"""Statistics against scipy, and against numbers from textbooks."""

import math

import pytest
from scipy import stats

from micro_diffusion.lab.comparison import difference, holm, mean, verdict

OURS, THEIRS = {1: 0.31, 2: 0.29, 3: 0.33}, {1: 0.35, 2: 0.345, 3: 0.37}


def test_a_mean_has_its_standard_error():
    made = mean(list(OURS.values()))
    assert made.value == pytest.approx(0.31) and made.count == 3
    assert made.error == pytest.approx(stats.sem(list(OURS.values())))
    assert f"{made}" == "0.3100 ± 0.0115" and f"{mean([2.0]):.1f}" == "2.0"


def test_differences_are_tested_as_scipy_does():
    a, b = list(OURS.values()), list(THEIRS.values())
    made = difference(OURS, THEIRS)
    welch = stats.ttest_ind(a, b, equal_var=False)
    assert made.of.value == pytest.approx(sum(a) / 3 - sum(b) / 3)
    assert made.of.value / made.of.error == pytest.approx(welch.statistic)
    assert made.welch == pytest.approx(welch.pvalue)
    assert made.paired == pytest.approx(stats.ttest_rel(a, b).pvalue)


def test_seeds_are_paired_by_their_number():
    shuffled = {3: THEIRS[3], 1: THEIRS[1], 2: THEIRS[2], 4: 0.4}
    assert difference(OURS, shuffled).paired == pytest.approx(difference(OURS, THEIRS).paired)
    assert math.isnan(difference(OURS, {4: 0.35, 5: 0.36}).paired)
    assert math.isnan(difference({1: 0.3}, THEIRS).welch)
    assert math.isnan(difference({1: 0.25, 2: 0.5}, {1: 0.5, 2: 0.75}).paired)  # twice the same tells no spread


def test_holm_s_adjustment():
    """The example of Holm's procedure by hand: 0.01·4, then 0.02·3, then at least as much."""
    assert holm([0.04, 0.01, math.nan, 0.03, 0.02]) == pytest.approx([0.06, 0.04, math.nan, 0.06, 0.06], nan_ok=True)
    assert holm([0.6, 0.7]) == [1.0, 1.0]


def test_what_may_be_said():
    made = difference(OURS, THEIRS)
    assert made.welch < 0.05
    assert verdict(made, adjusted=0.04) == "better"
    assert verdict(made, adjusted=0.04, lower_is_better=False) == "worse"
    assert verdict(made, adjusted=0.2) == "likely better"
    assert verdict(made._replace(welch=0.06), adjusted=0.06) == "within noise"
    assert verdict(difference({1: 0.3}, {1: 0.4}), adjusted=math.nan) == "too few seeds"
    assert verdict(difference({1: 0.5, 2: 0.5}, {1: 0.5, 2: 0.5}), adjusted=math.nan) == "within noise"
