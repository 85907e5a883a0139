"""Samplers on Gaussian data, whose denoiser and flow are known in closed form."""

import math

import pytest
import torch

from micro_diffusion.sampling.dpmpp_2m import DPMpp2MSampler
from micro_diffusion.sampling.euler import EulerSampler
from micro_diffusion.sampling.heun import HeunSampler
from micro_diffusion.sampling.noise_levels import Karras

MEAN, DEVIATION = 0.7, 0.5
SIGMA_MIN, SIGMA_MAX = 0.002, 80.0


def gaussian_denoiser(x, sigma):
    """E[x0 | x] for x0 ~ N(MEAN, DEVIATION²)."""
    return (DEVIATION**2 * x + sigma**2 * MEAN) / (DEVIATION**2 + sigma**2)


def walk(sampler, noise, *, sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX, denoiser=gaussian_denoiser, **generators):
    return sampler(denoiser, noise, sigmas=sampler.sigmas(sigma_min=sigma_min, sigma_max=sigma_max), **generators)


def exact_flow(noise):
    """Where the probability flow takes sigma_max·noise: (x − MEAN) shrinks with sqrt(DEVIATION² + sigma²)."""
    x = SIGMA_MAX * noise.double()
    return MEAN + (x - MEAN) * DEVIATION / math.sqrt(DEVIATION**2 + SIGMA_MAX**2)


def error(sampler) -> float:
    noise = torch.randn(16, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    made = walk(sampler, noise)
    return (made.double() - exact_flow(noise)).abs().max().item()


@pytest.mark.parametrize(("sampler", "order"), [(HeunSampler, 2), (DPMpp2MSampler, 2), (EulerSampler, 1)])
def test_the_error_falls_with_the_samplers_order(sampler, order):
    coarse, fine = error(sampler(steps=32)), error(sampler(steps=64))
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.35)


def test_dpmpp_2m_calls_the_network_once_a_step():
    calls = []
    noise = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(4))

    def counted(x, sigma):
        calls.append(sigma)
        return gaussian_denoiser(x, sigma)

    walk(DPMpp2MSampler(steps=7), noise, denoiser=counted)
    assert len(calls) == 7


def test_dpmpp_2m_is_more_exact_than_heun_for_the_same_network_calls():
    assert error(DPMpp2MSampler(steps=19)) < error(HeunSampler(steps=10))


@pytest.mark.parametrize("sampler", [HeunSampler, DPMpp2MSampler, EulerSampler])
def test_one_step_is_finite_and_gives_the_denoised_noise(sampler):
    noise = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    made = walk(sampler(steps=1), noise)
    expected = gaussian_denoiser(SIGMA_MAX * noise, SIGMA_MAX)
    torch.testing.assert_close(made, expected, rtol=1e-5, atol=1e-6)


def test_churn_keeps_the_distribution():
    sampler = HeunSampler(steps=40, churn=20, churn_sigma_min=0.05, churn_sigma_max=50)
    noise = torch.randn(64, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    generators = [torch.Generator().manual_seed(i) for i in range(64)]
    made = walk(sampler, noise, generators=generators)
    assert made.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert made.std().item() == pytest.approx(DEVIATION, abs=0.02)
    assert not torch.allclose(made, exact_flow(noise).float(), atol=0.1)


def test_churn_is_reproducible_independent_of_the_batch_and_needs_generators():
    sampler = HeunSampler(steps=4, churn=10)
    noise = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(3))

    def run(rows):
        generators = [torch.Generator().manual_seed(10 + i) for i in rows]
        return walk(sampler, noise[rows], sigma_min=0.1, sigma_max=10.0, generators=generators)

    torch.testing.assert_close(run([0, 1, 2])[1:], run([1, 2]))
    with pytest.raises(ValueError, match="one generator for each of 3 samples"):
        walk(sampler, noise, sigma_min=0.1, sigma_max=10.0)


def test_deterministic_sampling_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    walk(HeunSampler(steps=3), torch.ones(1, 1, 2, 2), sigma_min=0.1, sigma_max=10.0)
    assert torch.equal(before, torch.get_rng_state())


def test_noise_levels_follow_the_papers_equation():
    levels = Karras(rho=3.0)(5, sigma_min=0.01, sigma_max=10.0)
    expected = [(10 ** (1 / 3) + i / 4 * (0.01 ** (1 / 3) - 10 ** (1 / 3))) ** 3 for i in range(5)]
    assert levels == pytest.approx(expected)
    assert Karras()(1, sigma_min=0.01, sigma_max=10.0) == pytest.approx([10.0])


@pytest.mark.parametrize("steps", [0, -3])
def test_fewer_than_one_step_is_refused(steps):
    with pytest.raises(ValueError, match=f"sampling steps is {steps}"):
        Karras()(steps, sigma_min=0.01, sigma_max=10.0)
