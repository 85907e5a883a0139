"""Samplers on a beta table against the schedulers of diffusers, with the exact noise prediction of Gaussian data.

diffusers walks in x_t = alpha·(x + sigma·n) by whole steps t; both draw the same random numbers.
"""

import pytest
import torch

from micro_diffusion.diffusion.schedule import BetaTable
from micro_diffusion.sampling.dpmpp_2m import DPMpp2MSampler, DPMpp2MSDESampler
from micro_diffusion.sampling.euler import EulerSampler
from micro_diffusion.sampling.euler_ancestral import EulerAncestralSampler
from micro_diffusion.sampling.noise_levels import TableSteps
from tests.sampling.gaussian import gaussian_denoiser, some_noise

schedulers = pytest.importorskip("diffusers.schedulers")
TABLE = BetaTable("quadratic", 1000, beta_start=0.00085, beta_end=0.012)
SETTINGS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
STEPS = 20


def ours(sampler, spacing, noise, *, variance_exploding=False):
    walker = sampler(steps=STEPS, levels=TableSteps(table=TABLE, spacing=spacing))
    sigmas = walker.sigmas(sigma_min=0, sigma_max=0)
    scale = 1.0 if variance_exploding else (1 + sigmas[0] ** 2) ** 0.5 / sigmas[0]
    generators = [torch.Generator().manual_seed(5)]
    return walker(
        lambda x, sigma: gaussian_denoiser(x.double(), sigma), noise * scale, sigmas=sigmas, generators=generators
    )


def theirs(scheduler, noise, *, variance_exploding, **step):
    scheduler.set_timesteps(STEPS)
    x, generator = noise * scheduler.init_noise_sigma, torch.Generator().manual_seed(5)
    for t in scheduler.timesteps:
        sigma = TABLE.sigmas[int(t)].item()
        alpha = (1 + sigma**2) ** -0.5
        y = x if variance_exploding else x / alpha
        scheduler.scale_model_input(x, t)
        predicted = (y - gaussian_denoiser(y, sigma)) / sigma
        x = scheduler.step(predicted, t, x, generator=generator, **step).prev_sample
    return x


def compare(made, expected):
    torch.testing.assert_close(made.double(), expected.double(), rtol=1e-4, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_ancestral_euler_is_ddim(spacing, eta):
    scheduler = schedulers.DDIMScheduler(**SETTINGS, clip_sample=False, timestep_spacing=spacing, set_alpha_to_one=True)
    noise = some_noise(1, 1, 4, 4)
    made = ours(lambda **given: EulerAncestralSampler(eta=eta, **given), spacing, noise)
    compare(made, theirs(scheduler, noise, variance_exploding=False, eta=eta))


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_ancestral_euler_with_eta_1_is_ddpm(spacing):
    scheduler = schedulers.DDPMScheduler(**SETTINGS, clip_sample=False, timestep_spacing=spacing)
    noise = some_noise(1, 1, 4, 4)
    made = ours(EulerAncestralSampler, spacing, noise)
    compare(made, theirs(scheduler, noise, variance_exploding=False))


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"])
def test_euler_and_ancestral_euler_in_the_same_coordinates(name):
    scheduler = getattr(schedulers, name)(**SETTINGS, timestep_spacing="trailing")
    noise = some_noise(1, 1, 4, 4)
    coordinates = {"variance_exploding": True}
    sampler = EulerAncestralSampler if "Ancestral" in name else EulerSampler
    compare(ours(sampler, "trailing", noise, **coordinates), theirs(scheduler, noise, **coordinates))


@pytest.mark.parametrize(
    ("sampler", "algorithm"), [(DPMpp2MSampler, "dpmsolver++"), (DPMpp2MSDESampler, "sde-dpmsolver++")]
)
def test_dpmpp_2m(sampler, algorithm):
    scheduler = schedulers.DPMSolverMultistepScheduler(
        **SETTINGS, algorithm_type=algorithm, timestep_spacing="trailing", final_sigmas_type="zero"
    )
    noise = some_noise(1, 1, 4, 4)
    compare(ours(sampler, "trailing", noise), theirs(scheduler, noise, variance_exploding=False))
