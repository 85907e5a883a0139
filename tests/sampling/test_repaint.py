"""RePaint: the way up and down, diffusers' scheduler step by step, and the conditional of Gaussian data."""

import itertools
import math

import numpy as np
import pytest
import torch
from diffusers import RePaintScheduler

from micro_diffusion.sampling.euler import EulerSampler
from micro_diffusion.sampling.repaint import RePaint, way

CORRELATION = 0.8
COVARIANCE = torch.tensor([[1.0, CORRELATION], [CORRELATION, 1.0]], dtype=torch.float64)
UNKNOWN = torch.tensor([[[[False, True]]]])


def gaussian_denoiser(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """E[x0 | x0 + sigma·n] for two cells with the covariance above: C (C + sigma²)⁻¹ x."""
    gain = COVARIANCE @ torch.linalg.inv(COVARIANCE + sigma**2 * torch.eye(2, dtype=torch.float64))
    return (x.double() @ gain.T).to(x.dtype)


def test_the_way_is_that_of_diffusers():
    scheduler = RePaintScheduler(num_train_timesteps=20)
    scheduler.set_timesteps(20, jump_length=3, jump_n_sample=4)
    steps = [t + 1 for t in scheduler.timesteps.tolist()]  # t brings from t + 1 steps left to t, or goes up to t
    path = way(20, resamplings=4, jump=3)
    ups = [there for here, there in itertools.pairwise(path) if there > here]
    downs = [here for here, there in itertools.pairwise(path) if there < here]
    expected_downs = [a for b, a in itertools.pairwise([steps[0] + 1, *steps]) if a < b]
    assert len(steps) == len(path) - 1
    assert (len(ups), len(downs)) == (len(steps) - len(expected_downs), len(expected_downs))
    assert way(4, resamplings=1, jump=2) == [4, 3, 2, 1, 0]
    assert way(4, resamplings=2, jump=2) == [4, 3, 2, 1, 0, 1, 2, 1, 0]


def test_every_state_equals_that_of_diffusers():
    betas = np.linspace(0.01, 0.4, 12)
    scheduler = RePaintScheduler(num_train_timesteps=12, trained_betas=betas, eta=1.0, clip_sample=False)
    scheduler.set_timesteps(12, jump_length=3, jump_n_sample=3)
    alphas = scheduler.alphas_cumprod
    sigmas = [*((1 - alphas) / alphas).sqrt().flip(0).tolist(), 0.0]
    image = torch.tensor([[[[0.7, 0.0]]]], dtype=torch.float64)
    noise = torch.randn(1, 1, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    generator, last = torch.Generator().manual_seed(1), 12
    x = alphas[-1].sqrt() * sigmas[0] * noise
    known = (~UNKNOWN).double()
    for t in scheduler.timesteps.tolist():
        draw = torch.randn(x.shape, generator=generator).double()
        scaled = _Drawn(draw)
        if t < last:
            clean = gaussian_denoiser((x / alphas[t].sqrt()), math.sqrt((1 - alphas[t]) / alphas[t]))
            predicted = (x - alphas[t].sqrt() * clean) / (1 - alphas[t]).sqrt()
            with scaled:
                x = scheduler.step(predicted, t, x, image, known).prev_sample
        else:
            with scaled:
                x = scheduler.undo_step(x, last)
        last = t

    sampler = RePaint(EulerSampler(steps=12), image, UNKNOWN, resamplings=3, jump=3)
    ours = sampler(
        lambda y, sigma: gaussian_denoiser(y, sigma),
        noise,
        sigmas=sigmas,
        generators=[torch.Generator().manual_seed(1)],
    )
    assert ours.flatten().tolist() == pytest.approx(x.flatten().tolist(), rel=1e-4)


class _Drawn:
    """diffusers' scheduler draws what it is given."""

    def __init__(self, draw: torch.Tensor) -> None:
        self.draw = draw

    def __enter__(self) -> None:
        from diffusers.schedulers import scheduling_repaint

        self.kept = scheduling_repaint.randn_tensor
        scheduling_repaint.randn_tensor = lambda *_, **__: self.draw

    def __exit__(self, *_) -> None:
        from diffusers.schedulers import scheduling_repaint

        scheduling_repaint.randn_tensor = self.kept


def inpainted(known: float, *, resamplings: int, count: int = 500) -> torch.Tensor:
    """Samples of the second cell, given the first."""
    image = torch.tensor([[[[known, 0.0]]]])
    sampler = RePaint(EulerSampler(steps=40), image, UNKNOWN, resamplings=resamplings, jump=4)
    sigmas = sampler.sigmas(sigma_min=0.01, sigma_max=20.0)
    noise = torch.randn(count, 1, 1, 2, generator=torch.Generator().manual_seed(0))
    generators = [torch.Generator().manual_seed(i + 1) for i in range(count)]
    samples = sampler(gaussian_denoiser, noise, sigmas=sigmas, generators=generators)
    assert torch.equal(samples[..., 0], torch.full_like(samples[..., 0], known))
    return samples[:, 0, 0, 1]


def test_resampling_approaches_the_conditional_of_gaussian_data():
    """p(b | a = 1.5) is normal with mean 0.8·1.5 and variance 1 − 0.8²."""
    exact = CORRELATION * 1.5
    samples = inpainted(1.5, resamplings=10)
    assert samples.mean().item() == pytest.approx(exact, abs=0.1)
    assert samples.std().item() == pytest.approx(math.sqrt(1 - CORRELATION**2), abs=0.1)
    assert abs(samples.mean().item() - exact) < abs(inpainted(1.5, resamplings=1).mean().item() - exact)


def test_what_it_cannot_do_is_refused():
    image = torch.zeros(1, 1, 1, 2)
    with pytest.raises(ValueError, match="no cell is to be generated"):
        RePaint(EulerSampler(), image, torch.zeros(1, 1, 1, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="resamplings=0"):
        RePaint(EulerSampler(), image, UNKNOWN, resamplings=0)
    with pytest.raises(ValueError, match="the strength is 0"):
        RePaint(EulerSampler(), image, UNKNOWN, strength=0)
