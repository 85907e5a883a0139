"""Noise schedules against the numbers of the public implementations, in tests/fixtures/schedules.json."""

import json
import math
from pathlib import Path

import pytest
import torch

from micro_diffusion.diffusion.schedule import BetaTable, CosineLogSNR, LinearLogSNR
from micro_diffusion.sampling.euler import EulerSampler
from micro_diffusion.sampling.noise_levels import TableSteps

GOLDEN = json.loads((Path(__file__).parents[1] / "fixtures" / "schedules.json").read_text())


@pytest.mark.parametrize("name", GOLDEN["ddpm"])
def test_tables_have_the_published_betas(name):
    kind, steps = name.split("_")
    table, golden = BetaTable(kind, int(steps)), GOLDEN["ddpm"][name]
    fp32 = 2**-23  # theirs are 1 − a ratio in fp32
    assert table.betas()[golden["t"]].tolist() == pytest.approx(golden["beta"], rel=1e-4, abs=fp32)
    assert (1 / (1 + table.sigmas**2))[golden["t"]].tolist() == pytest.approx(golden["alpha_bar"], rel=1e-4)


def test_continuous_schedules_have_the_published_log_snr():
    golden = GOLDEN["imagen_log_snr"]
    time = torch.tensor(golden["t"], dtype=torch.float64)
    assert LinearLogSNR().log_snr(time).tolist() == pytest.approx(golden["linear"], rel=1e-4)
    assert CosineLogSNR().log_snr(time).tolist() == pytest.approx(golden["cosine"], rel=1e-4)
    torch.testing.assert_close(LinearLogSNR().sigma(time), torch.exp(-LinearLogSNR().log_snr(time) / 2))


def test_ddim_ends_where_the_published_sampler_does():
    golden = GOLDEN["ddim_eta0_gaussian"]
    levels = TableSteps(table=BetaTable(golden["schedule"], golden["timesteps"]))
    sampler = EulerSampler(steps=golden["timesteps"] // golden["sample_every"], levels=levels)
    sigmas = sampler.sigmas(sigma_min=0, sigma_max=0)
    variance = golden["data_std"] ** 2
    start = torch.tensor(golden["x_T"], dtype=torch.float64).view(golden["shape"])
    noise = start * math.sqrt(1 + sigmas[0] ** 2) / sigmas[0]  # theirs starts from alpha·(x + sigma·n)
    made = sampler(lambda x, sigma: x.double() * variance / (variance + sigma**2), noise, sigmas=sigmas)
    assert made.flatten().tolist() == pytest.approx(golden["x_0"], rel=1e-4)


def test_the_last_time_is_the_last_step_of_a_table():
    table = BetaTable("linear", 7)
    time = torch.tensor([0.0, 1 / 14, 0.999, 1.0], dtype=torch.float64)
    assert table.sigma(time).tolist() == table.sigmas[[0, 0, 6, 6]].tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "cubic"}, "kind of a beta table is 'cubic'; choose one of cosine, linear, quadratic, sigmoid"),
        ({"kind": "linear", "steps": 1}, "set steps of at least 2"),
        ({"kind": "linear", "beta_end": 1.0}, "0 < beta_start < beta_end < 1"),
        ({"kind": "cosine", "beta_end": 0.01}, "have no effect on a cosine table; leave them out"),
    ],
)
def test_impossible_tables_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        BetaTable(**arguments)
