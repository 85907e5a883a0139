"""Lists of noise levels against their formulas, and how fast samples on them converge."""

import math

import pytest
import torch

from micro_diffusion.diffusion.schedule import BetaTable, CosineLogSNR, LinearLogSNR
from micro_diffusion.sampling.dpmpp_2m import DPMpp2MSampler
from micro_diffusion.sampling.euler import EulerSampler
from micro_diffusion.sampling.heun import HeunSampler
from micro_diffusion.sampling.noise_levels import Exponential, Karras, LinearTime, ScheduleTime, TableSteps
from tests.sampling.gaussian import exact_flow, gaussian_denoiser, some_noise

SPAN = {"sigma_min": 0.002, "sigma_max": 80.0}
COSINE, LINEAR = ScheduleTime(schedule=CosineLogSNR()), ScheduleTime(schedule=LinearLogSNR())
TABLE = BetaTable("linear", 4096)
LEVELS = {
    "karras": Karras(),
    "exponential": Exponential(),
    "linear time": LinearTime(),
    "linear time, bent": LinearTime(exponent=0.5),
    "cosine log-SNR": COSINE,
    "linear log-SNR": LINEAR,
    "leading": TableSteps(table=TABLE),
    "trailing": TableSteps(table=TABLE, spacing="trailing"),
    "linspace": TableSteps(table=TABLE, spacing="linspace"),
}


def error(sampler, levels, steps) -> float:
    noise = some_noise(4, 1, 4, 4)
    walker = sampler(steps=steps, levels=levels)
    sigmas = walker.sigmas(**SPAN)
    made = walker(lambda x, sigma: gaussian_denoiser(x.double(), sigma), noise, sigmas=sigmas)
    return (made.double() - exact_flow(noise, sigmas[0])).abs().max().item()


@pytest.mark.parametrize("levels", LEVELS.values(), ids=LEVELS)
def test_eulers_error_halves_with_twice_the_levels(levels):
    """Second-order samplers reach their order on levels of a fixed span, see test_samplers.py."""
    coarse, fine = error(EulerSampler, levels, 32), error(EulerSampler, levels, 64)
    assert math.log2(coarse / fine) == pytest.approx(1, abs=0.15)
    for better in (HeunSampler, DPMpp2MSampler):
        assert error(better, levels, 64) < 1.5 * fine


@pytest.mark.parametrize("levels", LEVELS.values(), ids=LEVELS)
@pytest.mark.parametrize("steps", [1, 2, 50])
def test_there_are_as_many_falling_levels_as_steps(levels, steps):
    sigmas = levels(steps, **SPAN)
    assert len(sigmas) == steps and sigmas == sorted(set(sigmas), reverse=True) and sigmas[-1] > 0


@pytest.mark.parametrize("levels", LEVELS.values(), ids=LEVELS)
@pytest.mark.parametrize("steps", [0, -3])
def test_fewer_than_one_step_is_refused(levels, steps):
    with pytest.raises(ValueError, match=f"sampling steps is {steps}"):
        levels(steps, **SPAN)


def test_karras_levels_follow_the_papers_equation():
    levels = Karras(rho=3.0)(5, sigma_min=0.01, sigma_max=10.0)
    assert levels == pytest.approx([(10 ** (1 / 3) + i / 4 * (0.01 ** (1 / 3) - 10 ** (1 / 3))) ** 3 for i in range(5)])
    assert Karras()(1, sigma_min=0.01, sigma_max=10.0) == pytest.approx([10.0])


def test_exponential_levels_are_the_limit_of_karras_and_even_in_log_snr():
    levels = torch.tensor(Exponential()(9, **SPAN))
    torch.testing.assert_close(levels, torch.tensor(Karras(rho=1e5)(9, **SPAN)), rtol=1e-3, atol=0)
    log_snr = -2 * levels.log()
    torch.testing.assert_close(log_snr.diff(), (log_snr[-1] - log_snr[0]).expand(8) / 8)


def test_linear_time_is_that_of_the_transformer_latent_diffusion():
    levels = LinearTime(exponent=2.0)(4, **SPAN)
    assert [sigma / (1 + sigma) for sigma in levels] == pytest.approx([0.99, 15 / 16, 12 / 16, 7 / 16])
    assert LinearTime(shift=3.0)(10, **SPAN) == pytest.approx([3 * sigma for sigma in LinearTime()(10, **SPAN)])
    with pytest.raises(ValueError, match=r"second of 120 noise levels, s = 0.991667, is not below the first, 0.99"):
        LinearTime()(120, **SPAN)


def test_schedule_time_goes_from_the_highest_level_down_to_time_0():
    times = torch.tensor([1.0, 0.75, 0.5, 0.25], dtype=torch.float64)
    assert LINEAR(4, sigma_min=0, sigma_max=1e6) == pytest.approx(LinearLogSNR().sigma(times).tolist())
    assert COSINE(4, **SPAN)[0] == pytest.approx(80)
    assert len(set(COSINE(5000, **SPAN))) == 5000


@pytest.mark.parametrize(
    ("spacing", "steps", "times"),
    [
        ("leading", 5, [8, 6, 4, 2, 0]),
        ("leading", 4, [6, 4, 2, 0]),
        ("trailing", 5, [9, 7, 5, 3, 1]),
        ("trailing", 4, [9, 7, 4, 1]),  # 10, 7.5, 5 and 2.5, rounded to even, minus 1
        ("linspace", 4, [9, 6, 3, 0]),
        ("linspace", 1, [9]),
        ("leading", 10, list(range(9, -1, -1))),
        ("trailing", 10, list(range(9, -1, -1))),
    ],
)
def test_steps_of_a_table(spacing, steps, times):
    table = BetaTable("linear", 10)
    levels = TableSteps(table=table, spacing=spacing)
    assert levels.times(steps) == times
    assert levels(steps, **SPAN) == table.sigmas[times].tolist()


def test_what_means_nothing_is_refused():
    with pytest.raises(ValueError, match="choose at most 10"):
        TableSteps(table=BetaTable("linear", 10))(11, **SPAN)
    with pytest.raises(ValueError, match="choose leading, trailing or linspace"):
        TableSteps(table=TABLE, spacing="even")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="choose the noise levels TableSteps"):
        ScheduleTime(schedule=TABLE)
    with pytest.raises(ValueError, match="set exponent and shift above 0"):
        LinearTime(first=1.0)
    with pytest.raises(ValueError, match="rho of the noise levels is 0"):
        Karras(rho=0)
