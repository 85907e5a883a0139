"""The small KL autoencoder: scales, smoothness of its draws, round trips through files, and that it learns."""

from __future__ import annotations

import pytest
import torch

from micro_diffusion.autoencoder.autoencoder import Autoencoder
from micro_diffusion.autoencoder.kl import KLAutoencoder


def some_images(count: int = 4, side: int = 16) -> torch.Tensor:
    """Smooth random images in [-1, 1]."""
    coarse = torch.rand(count, 3, 3, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")


@pytest.fixture
def autoencoder() -> KLAutoencoder:
    torch.manual_seed(0)
    return KLAutoencoder(channels=5, downsampling=4, width=8)


@pytest.mark.parametrize("downsampling", [2, 4, 8])
def test_sizes(downsampling):
    autoencoder = KLAutoencoder(channels=3, downsampling=downsampling, width=8)
    assert isinstance(autoencoder, Autoencoder)
    latents = autoencoder.encode(some_images(2, 16))
    assert latents.shape == (2, 3, 16 // downsampling, 16 // downsampling)
    assert autoencoder.decode(latents).shape == (2, 3, 16, 16)


def test_rectangles(autoencoder):
    assert autoencoder.encode(torch.zeros(1, 3, 8, 24)).shape == (1, 5, 2, 6)


def test_measured_scale_gives_unit_latents(autoencoder):
    images = some_images(16, 32)
    autoencoder.measure_scale(images.split(4))
    latents = autoencoder.encode(images, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(latents.mean(dim=(0, 2, 3)), torch.zeros(5), atol=0.1, rtol=0)
    torch.testing.assert_close(latents.std(dim=(0, 2, 3)), torch.ones(5), atol=0.05, rtol=0)


def test_scale_cancels_in_a_round_trip(autoencoder):
    before = autoencoder.decode(autoencoder.encode(some_images(), sample=False))
    autoencoder.measure_scale([some_images()])
    torch.testing.assert_close(autoencoder.decode(autoencoder.encode(some_images(), sample=False)), before)


def test_draws_have_the_posterior_s_moments(autoencoder):
    image = some_images(1)
    mean, logvar = autoencoder.posterior(image)
    draws = autoencoder.encode(image.expand(4000, -1, -1, -1), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(draws.mean(dim=0), mean[0], atol=0.1, rtol=0)
    torch.testing.assert_close(draws.var(dim=0), logvar.exp()[0], atol=0, rtol=0.15)


def test_draws_follow_the_generator_and_not_the_global_one(autoencoder):
    state = torch.get_rng_state()
    draws = [autoencoder.encode(some_images(), generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.get_rng_state(), state)


def test_save_and_load(autoencoder, tmp_path):
    autoencoder.measure_scale([some_images()])
    autoencoder.save(tmp_path)
    loaded = KLAutoencoder.load(tmp_path, channels=5, downsampling=4)
    assert torch.equal(loaded.encode(some_images(), sample=False), autoencoder.encode(some_images(), sample=False))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_the_name_follows_the_weights_but_not_their_precision(autoencoder, tmp_path):
    autoencoder.save(tmp_path, dtype=torch.float16)
    loaded = KLAutoencoder.load(tmp_path)
    assert loaded.name == autoencoder.name
    loaded.shift += 1
    assert loaded.name != autoencoder.name


def test_learns_to_reconstruct():
    torch.manual_seed(0)
    autoencoder = KLAutoencoder(width=16)
    images = some_images(8)
    optimizer = torch.optim.Adam(autoencoder.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        mean, _ = autoencoder.posterior(images)
        loss = (autoencoder.reconstruct(mean) - images).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4


def test_indivisible_images_are_refused(autoencoder):
    with pytest.raises(ValueError, match="18×16 pixels .* multiples of 4"):
        autoencoder.encode(torch.zeros(1, 3, 18, 16))


@pytest.mark.parametrize("downsampling", [0, 1, 6])
def test_bad_downsampling(downsampling):
    with pytest.raises(ValueError, match=f"downsampling is {downsampling}; set it to a power of 2"):
        KLAutoencoder(downsampling=downsampling)


def test_missing_weights_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="no config.json .*train_autoencoder"):
        KLAutoencoder.load(tmp_path)


def test_stated_channels_are_checked(autoencoder, tmp_path):
    autoencoder.save(tmp_path)
    with pytest.raises(ValueError, match="autoencoder.channels is 4, but .* has 5; set autoencoder.channels=5"):
        KLAutoencoder.load(tmp_path, channels=4)
