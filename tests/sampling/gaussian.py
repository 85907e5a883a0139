"""Gaussian data, whose denoiser and flow are known in closed form."""

import math

import torch

MEAN, DEVIATION = 0.7, 0.5


def gaussian_denoiser(x, sigma):
    """E[x0 | x] for x0 ~ N(MEAN, DEVIATION²)."""
    return (DEVIATION**2 * x + sigma**2 * MEAN) / (DEVIATION**2 + sigma**2)


def exact_flow(noise, sigma):
    """Where the probability flow takes sigma·noise: (x − MEAN) shrinks with sqrt(DEVIATION² + sigma²)."""
    return MEAN + (sigma * noise.double() - MEAN) * DEVIATION / math.sqrt(DEVIATION**2 + sigma**2)


def some_noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
