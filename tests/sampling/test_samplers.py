"""Samplers on Gaussian data, whose denoiser and flow are known in closed form."""

import itertools
import math

import pytest
import torch

from micro_diffusion.sampling import dpmpp_2m, euler_ancestral
from micro_diffusion.sampling.dpmpp_2m import DPMpp2MSampler, DPMpp2MSDESampler
from micro_diffusion.sampling.euler import EulerSampler
from micro_diffusion.sampling.euler_ancestral import EulerAncestralSampler
from micro_diffusion.sampling.heun import HeunSampler
from micro_diffusion.sampling.noise_levels import Exponential, Karras
from tests.sampling.gaussian import DEVIATION, MEAN, exact_flow, gaussian_denoiser, some_noise

SIGMA_MIN, SIGMA_MAX = 0.002, 80.0


def walk(sampler, noise, *, sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX, denoiser=gaussian_denoiser, **generators):
    return sampler(denoiser, noise, sigmas=sampler.sigmas(sigma_min=sigma_min, sigma_max=sigma_max), **generators)


def error(sampler) -> float:
    noise = some_noise(16, 1, 4, 4)
    made = walk(sampler, noise)
    return (made.double() - exact_flow(noise, SIGMA_MAX)).abs().max().item()


@pytest.mark.parametrize("levels", [Karras(), Exponential()], ids=["karras", "exponential"])
@pytest.mark.parametrize(("sampler", "order"), [(HeunSampler, 2), (DPMpp2MSampler, 2), (EulerSampler, 1)])
def test_the_error_falls_with_the_samplers_order(sampler, order, levels):
    coarse, fine = error(sampler(steps=32, levels=levels)), error(sampler(steps=64, levels=levels))
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.35)


def variance(sampler, monkeypatch) -> float:
    """Of the samples, exactly: with a linear denoiser they sum up independent noises, of which each row shows one."""
    rows = iter(torch.eye(sampler.steps, dtype=torch.float64).view(sampler.steps, sampler.steps, 1, 1, 1))
    for module in (dpmpp_2m, euler_ancestral):
        monkeypatch.setattr(module, "fresh_noise", lambda like, generators: next(rows))
    next(rows)
    unit = torch.eye(sampler.steps)[0].view(-1, 1, 1, 1)
    made = walk(sampler, unit, denoiser=lambda x, sigma: gaussian_denoiser(x.double() + MEAN, sigma) - MEAN)
    return made.double().square().sum().item()


@pytest.mark.parametrize(("sampler", "order"), [(EulerAncestralSampler, 1), (DPMpp2MSDESampler, 2)])
@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_the_variance_of_samples_falls_with_the_order_of_stochastic_samplers(sampler, order, eta, monkeypatch):
    errors = [abs(variance(sampler(steps=steps, eta=eta), monkeypatch) - DEVIATION**2) for steps in (32, 64, 128)]
    for coarse, fine in itertools.pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.25)


def test_ancestral_euler_without_eta_is_euler():
    noise = some_noise(2, 1, 4, 4)
    assert torch.equal(walk(EulerAncestralSampler(steps=5, eta=0.0), noise), walk(EulerSampler(steps=5), noise))


@pytest.mark.parametrize("sampler", [HeunSampler(steps=9, churn=9), EulerAncestralSampler(steps=9)])
def test_a_sampler_says_what_it_will_ask(sampler):
    asked = []
    sigmas = sampler.sigmas(sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX)
    denoiser = lambda x, sigma: asked.append(sigma) or gaussian_denoiser(x, sigma)  # noqa: E731
    sampler(denoiser, some_noise(1, 1, 2, 2), sigmas=sigmas, generators=[torch.Generator()])
    assert set(asked) <= set(sampler.asked(sigmas))


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


STOCHASTIC = [
    HeunSampler(steps=40, churn=20, churn_sigma_min=0.05, churn_sigma_max=50),
    EulerAncestralSampler(steps=300),
    DPMpp2MSDESampler(steps=60),
]


@pytest.mark.parametrize("sampler", STOCHASTIC, ids=lambda sampler: type(sampler).__name__)
def test_fresh_noise_keeps_the_distribution(sampler):
    noise = some_noise(64, 1, 16, 16, seed=2)
    generators = [torch.Generator().manual_seed(i) for i in range(64)]
    made = walk(sampler, noise, generators=generators)
    assert made.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert made.std().item() == pytest.approx(DEVIATION, abs=0.02)
    assert not torch.allclose(made, exact_flow(noise, SIGMA_MAX).float(), atol=0.1)


@pytest.mark.parametrize("sampler", STOCHASTIC, ids=lambda sampler: type(sampler).__name__)
def test_fresh_noise_is_reproducible_independent_of_the_batch_and_needs_generators(sampler):
    noise = some_noise(3, 1, 4, 4, seed=3)

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


@pytest.mark.parametrize("eta", [-0.1, 1.1])
def test_an_eta_that_means_nothing_is_refused(eta):
    with pytest.raises(ValueError, match="eta of the sampler is"):
        EulerAncestralSampler(eta=eta)
    with pytest.raises(ValueError, match="or choose the sampler dpmpp_2m"):
        DPMpp2MSDESampler(eta=0.0)


@pytest.mark.parametrize("sigmas", [[], [0.0], [1.0], [1.0, 1.0, 0.0], [2.0, 1.0, 1.5, 0.0], [math.inf, 0.0]])
def test_levels_that_do_not_fall_to_0_are_refused(sigmas):
    with pytest.raises(ValueError, match="noise levels do not"):
        EulerSampler()(gaussian_denoiser, some_noise(1, 1, 2, 2), sigmas=sigmas)
