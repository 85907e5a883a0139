"""Image to image: it begins at the level that the image was noised to, which imagen-pytorch's init_images does not."""

import math

import pytest
import torch

from micro_diffusion.sampling.euler import EulerSampler
from micro_diffusion.sampling.euler_ancestral import EulerAncestralSampler
from micro_diffusion.sampling.from_image import FromImage

STEPS, LOW, HIGH, STRENGTH = 20, 0.01, 20.0, 0.4


@pytest.mark.parametrize("sampler", [EulerSampler(steps=STEPS), EulerAncestralSampler(steps=STEPS, eta=1.0)])
def test_the_first_state_is_the_image_with_noise_of_the_first_level(sampler):
    image, noise = torch.randn(1, 2, 3, 3), torch.randn(4, 2, 3, 3)
    begun = FromImage(sampler, image, strength=STRENGTH)
    sigmas = begun.sigmas(sigma_min=LOW, sigma_max=HIGH)
    seen = []

    def denoiser(x, sigma):
        seen.append((x.clone(), float(sigma)))
        return image.expand_as(x)

    begun(denoiser, noise, sigmas=sigmas, generators=[torch.Generator().manual_seed(i) for i in range(4)])
    assert len(sigmas) == round(STRENGTH * STEPS) + 1
    assert seen[0][1] == pytest.approx(sigmas[0])
    torch.testing.assert_close(seen[0][0], image + sigmas[0] * noise)


def test_images_of_the_data_stay_images_of_the_data():
    """With the exact denoiser of x0 ~ N(0, 0.5²), noised and denoised images have its deviation again."""
    deviation, count = 0.5, 40_000
    generator = torch.Generator().manual_seed(0)
    images = deviation * torch.randn(count, 1, 1, 1, generator=generator)
    begun = FromImage(EulerSampler(steps=200), images, strength=STRENGTH)
    sigmas = begun.sigmas(sigma_min=LOW, sigma_max=HIGH)

    def denoiser(x, sigma):
        return x * deviation**2 / (deviation**2 + float(sigma) ** 2)

    noise = torch.randn(count, 1, 1, 1, generator=generator)
    made = begun(denoiser, noise, sigmas=sigmas)
    assert made.std().item() == pytest.approx(deviation, rel=0.02)
    likeness = (made * images).mean().item() / deviation**2
    expected = deviation / math.hypot(deviation, sigmas[0])  # the rest is the noise's
    assert likeness == pytest.approx(expected, abs=0.02)
