"""Released autoencoders, on small weights that the test makes itself."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL

from micro_diffusion.autoencoder.autoencoder import Autoencoder
from micro_diffusion.autoencoder.pretrained import PretrainedAutoencoder

SCALING, SHIFT = 0.5, 0.25


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=6,
        norm_num_groups=4,
        scaling_factor=SCALING,
        shift_factor=SHIFT,
    ).eval()


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("repository")
    network.save_pretrained(folder / "vae")
    return folder


@pytest.fixture(scope="module")
def autoencoder(folder):
    return PretrainedAutoencoder(path=str(folder), subfolder="vae", channels=6, downsampling=4)


def images(side: int = 16) -> torch.Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_is_an_autoencoder(autoencoder):
    assert isinstance(autoencoder, Autoencoder)


def test_latents_are_shifted_and_scaled(autoencoder, network):
    with torch.no_grad():
        mean = network.encode(images()).latent_dist.mean
    torch.testing.assert_close(autoencoder.encode(images(), sample=False), (mean - SHIFT) * SCALING)


def test_decode_inverts_shift_and_scaling(autoencoder, network):
    latents = torch.randn(2, 6, 4, 4)
    with torch.no_grad():
        expected = network.decode(latents / SCALING + SHIFT).sample.clamp(-1, 1)
    torch.testing.assert_close(autoencoder.decode(latents), expected)


def test_given_constants_replace_those_of_the_config(folder, autoencoder):
    other = PretrainedAutoencoder(path=str(folder / "vae"), scaling_factor=1.0, shift_factor=0.0)
    expected = other.encode(images(), sample=False)
    torch.testing.assert_close(autoencoder.encode(images(), sample=False), (expected - SHIFT) * SCALING)


def test_sampling_follows_the_generator(autoencoder):
    draws = [autoencoder.encode(images(), generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_low_precision_weights_give_float32_results(folder):
    autoencoder = PretrainedAutoencoder(path=str(folder), subfolder="vae", dtype="bfloat16")
    assert autoencoder.encode(images()).dtype == torch.float32
    assert autoencoder.decode(torch.randn(1, 6, 4, 4)).dtype == torch.float32


def test_float16_is_refused_where_the_weights_overflow(folder):
    with pytest.raises(ValueError, match="overflows in float16"):
        PretrainedAutoencoder(path=str(folder), subfolder="vae", dtype="float16")


def test_indivisible_images_are_refused(autoencoder):
    with pytest.raises(ValueError, match="18×18 pixels .* multiples of 4"):
        autoencoder.encode(images(18))


def test_stated_channels_are_checked(folder):
    with pytest.raises(ValueError, match="autoencoder.channels is 4, but .* has 6; set autoencoder.channels=6"):
        PretrainedAutoencoder(path=str(folder), subfolder="vae", channels=4)


@pytest.mark.parametrize("missing", ["", "unet"])
def test_missing_weights_give_one_sentence(folder, missing):
    with pytest.raises(FileNotFoundError, match="there is no autoencoder to load from .*; connect to the") as error:
        PretrainedAutoencoder(path=str(folder), subfolder=missing or None)
    assert "\n" not in str(error.value)


def test_no_network_gives_one_sentence(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="connect to the network once") as error:
        PretrainedAutoencoder(path="nobody/nothing", subfolder="vae")
    assert "\n" not in str(error.value)
