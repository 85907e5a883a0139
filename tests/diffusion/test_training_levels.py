"""Distributions of training levels against their quantiles."""

import math

import pytest
import torch
from scipy import stats

from micro_diffusion.diffusion.schedule import BetaTable, LinearLogSNR
from micro_diffusion.diffusion.training_levels import Beta, Laplace, LogitNormal, LogNormal, UniformTime

NORMAL = torch.linspace(-5, 5, 101, dtype=torch.float64)


@pytest.mark.parametrize(("a", "b"), [(1.0, 2.5), (0.75, 0.75), (1.0, 1.0), (2.0, 5.0), (0.3, 4.0)])
def test_beta_has_the_quantiles_of_scipy(a, b):
    sigma = Beta(a=a, b=b)(NORMAL).numpy()
    below, above = stats.beta.ppf(stats.norm.cdf(NORMAL), a, b), stats.beta.isf(stats.norm.sf(NORMAL), a, b)
    low = NORMAL.numpy() < 0
    assert sigma[low] / (1 + sigma[low]) == pytest.approx(below[low], rel=1e-4)
    assert 1 / (1 + sigma[~low]) == pytest.approx(stats.beta.isf(stats.norm.cdf(NORMAL), b, a)[~low], rel=1e-4)
    assert (sigma / (1 + sigma))[~low] == pytest.approx(above[~low], rel=1e-4)


def test_logit_normal_is_shifted_as_in_the_paper():
    """Esser et al. 2024, eq. 23: s' = m·s / (1 + (m − 1)·s)."""
    plain, shifted = (
        levels(NORMAL) for levels in (LogitNormal(mean=0.2, std=0.8), LogitNormal(mean=0.2, std=0.8, shift=3))
    )
    s, s_shifted = plain / (1 + plain), shifted / (1 + shifted)
    torch.testing.assert_close(torch.logit(s), 0.2 + 0.8 * NORMAL)
    torch.testing.assert_close(s_shifted, 3 * s / (1 + 2 * s))


def test_laplace_has_the_quantiles_of_scipy():
    drawn = Laplace(mean=0.35, scale=0.5, shift=2)(NORMAL).log().numpy()
    low, quantiles = NORMAL.numpy() < 0, stats.laplace(0.35 + math.log(2), 0.5)
    assert drawn[low] == pytest.approx(quantiles.ppf(stats.norm.cdf(NORMAL))[low], abs=1e-9)
    assert drawn[~low] == pytest.approx(quantiles.isf(stats.norm.sf(NORMAL))[~low], abs=1e-9)


def test_every_step_of_a_table_is_equally_likely():
    table = BetaTable("sigmoid", 10)
    quantiles = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    drawn = UniformTime(schedule=table)(torch.special.ndtri(quantiles))
    values, counts = drawn.unique(return_counts=True)
    torch.testing.assert_close(values, table.sigmas)
    assert counts.tolist() == [100] * 10


def test_times_of_a_continuous_schedule_are_uniform():
    time = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    drawn = UniformTime(schedule=LinearLogSNR())(torch.special.ndtri(time))
    torch.testing.assert_close(drawn, LinearLogSNR().sigma(time))


@pytest.mark.parametrize(
    "levels",
    [
        LogNormal(),
        Laplace(scale=1),
        Beta(a=1, b=2.5),
        UniformTime(schedule=BetaTable("cosine")),
        UniformTime(schedule=LinearLogSNR()),
    ],
)
def test_extreme_draws_stay_finite_and_keep_their_type(levels):
    sigma = levels(torch.tensor([-9.0, -5.5, 0.0, 5.5, 9.0]))
    assert sigma.dtype == torch.float32 and sigma.isfinite().all() and (sigma > 0).all()
    assert (sigma.diff() >= 0).all()
