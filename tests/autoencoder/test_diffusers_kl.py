"""Further training of a diffusers autoencoder, on small weights that the test makes itself."""

import pytest
import torch
from diffusers import AutoencoderKL

from micro_diffusion.autoencoder.diffusers_kl import DiffusersKL
from micro_diffusion.autoencoder.pretrained import PretrainedAutoencoder
from micro_diffusion.autoencoder.saved import load_autoencoder

SCALING, SHIFT = 0.5, 0.25


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    network = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=6,
        norm_num_groups=4,
        scaling_factor=SCALING,
        shift_factor=SHIFT,
    )
    folder = tmp_path_factory.mktemp("repository")
    network.save_pretrained(folder / "vae")
    return folder


def images(side: int = 16) -> torch.Tensor:
    return torch.rand(4, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


def step(autoencoder: DiffusersKL) -> None:
    """One of training."""
    optimizer = torch.optim.SGD([p for p in autoencoder.parameters() if p.requires_grad], lr=0.1)
    mean, logvar = autoencoder.posterior(images())
    ((autoencoder.reconstruct(mean) - images()).abs().mean() + 0.1 * (mean.square() + logvar.exp()).mean()).backward()
    optimizer.step()


def test_begins_as_the_released_one(folder):
    released = PretrainedAutoencoder(path=str(folder), subfolder="vae")
    ours = DiffusersKL.from_pretrained(path=str(folder), subfolder="vae", channels=6, downsampling=2)
    latents = released.encode(images(), sample=False)
    torch.testing.assert_close(ours.encode(images(), sample=False), latents)
    torch.testing.assert_close(ours.decode(latents), released.decode(latents))


@pytest.mark.parametrize("trained", ["decoder", "all"])
def test_trains_what_it_says_and_lives_in_a_folder(folder, tmp_path, trained):
    ours = DiffusersKL.from_pretrained(path=str(folder), subfolder="vae", trained=trained)
    before = ours.encode(images(), sample=False)
    reconstructed = ours.decode(before)
    step(ours)
    ours.measure_scale([images()])
    latents = ours.encode(images(), sample=False)
    assert torch.allclose(latents, before) == (trained == "decoder")
    assert not torch.allclose(ours.decode(before), reconstructed)
    assert ours.last_layer.grad is not None and ours.last_layer.grad.abs().sum() > 0
    ours.save(tmp_path)
    loaded = load_autoencoder(tmp_path, channels=6, downsampling=2)
    torch.testing.assert_close(loaded.encode(images(), sample=False), latents)
    torch.testing.assert_close(loaded.decode(latents), ours.decode(latents))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_bad_settings_are_refused(folder):
    with pytest.raises(ValueError, match="autoencoder.trained is 'encoder'; set it to decoder or all"):
        DiffusersKL.from_pretrained(path=str(folder), subfolder="vae", trained="encoder")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="autoencoder.channels is 4, but .* has 6; set autoencoder.channels=6"):
        DiffusersKL.from_pretrained(path=str(folder), subfolder="vae", channels=4)
