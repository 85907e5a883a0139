"""Equality with the public VAE of "latent diffusion from scratch": its weights, inputs and outputs.

Set LDM_VAE_GOLDEN to the path of another such file to test against that one.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from micro_diffusion.autoencoder.ldm_vae import LdmVAE
from micro_diffusion.autoencoder.ldm_vae_import import build_ldm_vae, import_ldm_vae
from micro_diffusion.autoencoder.saved import load_autoencoder

FIXTURE = Path(__file__).parents[1] / "fixtures" / "ldm_vae_small.safetensors"
TOLERANCE = 1e-4
DOWNSAMPLING = {"avg": "average", "mean": "average", "max": "max", "conv": "convolution"}
UPSAMPLING = {"nearest": "nearest", "bilinear": "bilinear", "bicubic": "bicubic", "conv": "transposed"}


class Golden:
    """The file's tensors, and our network built from its metadata and weights."""

    def __init__(self, path: Path):
        with safe_open(path, "pt") as file:
            self.config = json.loads(file.metadata()["config"])
        tensors = load_file(path)
        self.io = {key.removeprefix("io."): value for key, value in tensors.items() if key.startswith("io.")}
        self.weights = {key.removeprefix("weights."): v for key, v in tensors.items() if key.startswith("weights.")}
        config = self.config
        assert (config["down_kern"], config["up_scale"]) == (2, 2), "no other factors are supported"
        self.hidden = {
            "groups": config["grnorm_groups"],
            "heads": config["attn_heads"],
            "downsampling_kind": DOWNSAMPLING[config["down_mode"]],
            "upsampling_kind": UPSAMPLING[config["up_mode"]],
            "tanh": config["dec_tanh_out"],
            "norm_eps": config["eps"],
        }
        self.autoencoder: LdmVAE = build_ldm_vae(self.weights, self.hidden, scaling=config["scaling_factor"])


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden(Path(os.environ.get("LDM_VAE_GOLDEN") or FIXTURE))


def assert_equal(made: torch.Tensor, expected: torch.Tensor):
    """The largest error, relative to the largest number, is at most TOLERANCE."""
    assert made.shape == expected.shape
    assert expected.abs().max() > 0
    assert ((made - expected).abs().max() / expected.abs().max()).item() <= TOLERANCE


def test_sizes_follow_from_the_weights(golden):
    made, config = golden.autoencoder.config, golden.config
    assert made["width"] == config["enc_init_ch"]
    assert made["multipliers"] == list(config["ch_mult"])
    assert made["blocks"] == config["resnet_stacks"]
    assert made["channels"] == (config["embed_dim"] or config["latent_dim"])
    assert (made["encoder_attention"], made["decoder_attention"]) == (
        config["down_attn"] or [],
        config["up_attn"] or [],
    )
    assert made["head_dim"] == config["attn_dim"]


def test_encoder(golden):
    mean, logvar = golden.autoencoder.posterior(golden.io["x"])
    assert_equal(mean, golden.io["mean"])
    assert_equal(logvar, golden.io["logvar"])


@pytest.mark.parametrize(("latents", "images"), [("mean", "decoded_mean"), ("z", "decoded_z")])
def test_decoder(golden, latents, images):
    assert_equal(golden.autoencoder.reconstruct(golden.io[latents]), golden.io[images])


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_an_imported_file_becomes_a_folder(golden, tmp_path, ending):
    if ending == ".pt":
        torch.save(golden.weights, tmp_path / "vae.pt")
    else:
        save_file(golden.weights, tmp_path / "vae.safetensors")
    scaling = golden.config["scaling_factor"]
    import_ldm_vae(tmp_path / f"vae{ending}", tmp_path / "folder", scaling=scaling, **golden.hidden)
    loaded = load_autoencoder(tmp_path / "folder", channels=golden.io["mean"].shape[1])
    assert isinstance(loaded, LdmVAE)
    assert_equal(loaded.encode(golden.io["x"], sample=False), golden.io["mean"] * scaling)
    assert_equal(loaded.decode(golden.io["mean"] * scaling), golden.io["decoded_mean"].clamp(-1, 1))


def test_other_weights_are_refused(golden, tmp_path):
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"no weights of that VAE: _encoder.init_conv.weight is missing; give vae\.pt"):
        import_ldm_vae(tmp_path / "other.pt", tmp_path / "folder")
    with pytest.raises(ValueError, match="do not fit .*; give what they were made with"):
        build_ldm_vae({**golden.weights, "more": torch.zeros(1)}, golden.hidden, scaling=1.0)
    torch.save([1], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="holds no plain state dict"):
        import_ldm_vae(tmp_path / "list.pt", tmp_path / "folder")
