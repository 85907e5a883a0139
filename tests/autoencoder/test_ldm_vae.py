"""The latent-diffusion VAE: its sizes, that it learns, its folder, and bad settings."""

import json

import pytest
import torch

from micro_diffusion.autoencoder.autoencoder import Autoencoder
from micro_diffusion.autoencoder.kl import KLAutoencoder
from micro_diffusion.autoencoder.ldm_vae import LdmVAE
from micro_diffusion.autoencoder.saved import load_autoencoder
from tests.autoencoder.test_kl import some_images

SMALL = {"channels": 4, "downsampling": 4, "multipliers": (1, 2, 2), "blocks": 1, "encoder_attention": (2,)}


@pytest.fixture
def autoencoder() -> LdmVAE:
    torch.manual_seed(0)
    return LdmVAE(**SMALL, decoder_attention=())


@pytest.mark.parametrize("downsampling", [4, 8, 16])
@pytest.mark.parametrize("channels", [4, 16, 32])
def test_sizes(downsampling, channels):
    multipliers = (1, 2, 2, 4, 4)[: downsampling.bit_length()]
    autoencoder = LdmVAE(
        channels=channels,
        downsampling=downsampling,
        multipliers=multipliers,
        blocks=1,
        encoder_attention=[1],
        decoder_attention=[0],
    )
    assert isinstance(autoencoder, Autoencoder)
    latents = autoencoder.encode(torch.zeros(2, 3, 32, 48))
    assert latents.shape == (2, channels, 32 // downsampling, 48 // downsampling)
    assert autoencoder.decode(latents).shape == (2, 3, 32, 48)


def test_the_public_size_has_its_parameter_count():
    assert sum(parameter.numel() for parameter in LdmVAE(tanh=True).parameters()) == 624_319


def test_the_last_layer_is_that_of_the_image(autoencoder):
    images = autoencoder.reconstruct(torch.randn(1, 4, 4, 4))
    (gradient,) = torch.autograd.grad(images.sum(dim=(0, 2, 3))[1], autoencoder.last_layer)
    assert gradient.shape[0] == 3
    assert gradient[1].abs().sum() > 0 and gradient[0].abs().sum() == gradient[2].abs().sum() == 0


def test_begins_with_moments_and_images_of_about_unit_size(autoencoder):
    """Standardised filters alone would make standard deviations of the latents of exp(10)."""
    mean, logvar = autoencoder.posterior(torch.randn(2, 3, 32, 32))
    for values in (mean, logvar, autoencoder.reconstruct(torch.randn(2, 4, 8, 8))):
        assert 0.1 < values.std() < 2


def test_tanh_keeps_images_in_range(autoencoder):
    with_tanh = LdmVAE(**SMALL, decoder_attention=(), tanh=True)
    with_tanh.load_state_dict(autoencoder.state_dict())
    latents = 10 * torch.randn(1, 4, 4, 4)
    torch.testing.assert_close(with_tanh.reconstruct(latents), autoencoder.reconstruct(latents).tanh())


def test_learns_to_reconstruct(autoencoder):
    images = some_images(4)
    optimizer = torch.optim.Adam(autoencoder.parameters(), lr=3e-3)
    losses = []
    for _ in range(20):
        mean, _ = autoencoder.posterior(images)
        loss = (autoencoder.reconstruct(mean) - images).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_a_folder_says_what_it_holds(autoencoder, tmp_path):
    autoencoder.measure_scale([some_images()])
    autoencoder.save(tmp_path / "ldm")
    KLAutoencoder(width=8).save(tmp_path / "kl")
    loaded = load_autoencoder(tmp_path / "ldm", channels=4, downsampling=4)
    assert loaded.name == autoencoder.name and loaded.name.startswith("ldm-vae-f4-c4-")
    assert torch.equal(loaded.encode(some_images(), sample=False), autoencoder.encode(some_images(), sample=False))
    assert isinstance(load_autoencoder(tmp_path / "kl"), KLAutoencoder)
    assert isinstance(load_autoencoder("bundled:autoencoder"), KLAutoencoder)
    with pytest.raises(ValueError, match="holds an autoencoder of the kind ldm-vae, not kl; load it with"):
        KLAutoencoder.load(tmp_path / "ldm")
    with pytest.raises(ValueError, match="autoencoder.downsampling is 8, but .* has 4"):
        load_autoencoder(tmp_path / "ldm", downsampling=8)
    config = json.loads((tmp_path / "ldm" / "config.json").read_text())
    (tmp_path / "ldm" / "config.json").write_text(json.dumps({**config, "network": "vq"}))
    with pytest.raises(ValueError, match="of the kind 'vq', which is none of kl, ldm-vae, diffusers-kl"):
        load_autoencoder(tmp_path / "ldm")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"downsampling": 8}, "downsampling is 8, but 3 multipliers make it 4; set autoencoder.multipliers"),
        ({"multipliers": ()}, "downsampling is 4, but 0 multipliers make it 1"),
        ({"groups": 3}, "level 0 of the autoencoder has 8 channels, which do not divide into groups=3"),
        ({"encoder_attention": (3,)}, "encoder_attention names level 3; set it to levels from 0 to 2"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        LdmVAE(**{**SMALL, "decoder_attention": (), **change})
