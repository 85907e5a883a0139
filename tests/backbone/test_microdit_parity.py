"""Equality with the public MicroDiT network: its weights, its inputs, its outputs (tests/fixtures/microdit_small).

Set MICRODIT_GOLDEN to the path of another such file to test against that one.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from micro_diffusion.backbone.dit import SparseDiT
from micro_diffusion.backbone.masking import visible
from micro_diffusion.condition import Condition
from micro_diffusion.diffusion.edm import EDM
from micro_diffusion.released_weights import import_microdit
from micro_diffusion.sampling.guidance import guided_denoiser
from micro_diffusion.sampling.heun import HeunSampler
from micro_diffusion.sampling.noise_levels import Karras

FIXTURE = Path(__file__).parents[1] / "fixtures" / "microdit_small.safetensors"
TOLERANCE = 1e-4


class Golden:
    """The fixture's tensors, and our network and objective built from its metadata and weights."""

    def __init__(self, path: Path):
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
        self.io = {key.removeprefix("io."): value for key, value in tensors.items() if key.startswith("io.")}
        weights = {key.removeprefix("weights."): v for key, v in tensors.items() if key.startswith("weights.")}
        edm = json.loads(metadata["edm"])
        self.sigma_range = {"sigma_min": edm["sigma_min"], "sigma_max": edm["sigma_max"]}
        self.sampler = HeunSampler(
            steps=int(metadata["heun_steps"]), levels=Karras(rho=edm["rho"]), churn=edm["S_churn"]
        )
        self.objective = EDM(sigma_data=edm["sigma_data"], P_mean=edm["P_mean"], P_std=edm["P_std"], **self.sigma_range)
        self.backbone = network(json.loads(metadata["config"]))
        self.backbone.load_state_dict(import_microdit(weights, self.backbone))
        self.backbone.eval().requires_grad_(False)
        self.text = Condition(self.io["y"].squeeze(1))

    def predict(self, text: Condition, keep=None) -> torch.Tensor:
        return self.backbone(self.io["x"], self.io["t"], text, keep).value


def network(config: dict) -> SparseDiT:
    return SparseDiT(
        input_size=config["input_size"],
        in_channels=config["in_channels"],
        patch_size=config["patch_size"],
        dim=config["dim"],
        depth=config["depth"],
        head_dim=config["head_dim"],
        caption_dim=config["caption_channels"],
        qkv_ratio=config["qkv_multipliers"],
        mlp_ratio=config["ffn_multipliers"],
        multiple_of=config["multiple_of"],
        mixer_depth=config["patch_mixer_depth"] if config["use_patch_mixer"] else 0,
        mixer_dim=config["patch_mixer_dim"],
        mixer_qkv_ratio=config["patch_mixer_qkv_ratio"],
        mixer_mlp_ratio=config["patch_mixer_mlp_ratio"],
        experts=config["num_experts"],
        expert_capacity=config["expert_capacity"],
        experts_every=config["experts_every_n"],
        position_scale=config["pos_interp_scale"],
        norm_eps=config["norm_eps"],
    )


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden(Path(os.environ.get("MICRODIT_GOLDEN") or FIXTURE))


def assert_equal(made: torch.Tensor, expected: torch.Tensor):
    """The largest error, relative to the largest number, is at most TOLERANCE."""
    assert made.shape == expected.shape
    assert expected.abs().max() > 0
    assert ((made - expected).abs().max() / expected.abs().max()).item() <= TOLERANCE


def test_network(golden):
    assert_equal(golden.predict(golden.text), golden.io["out"])


def test_guidance_on_the_raw_output(golden):
    unconditional, conditional = golden.predict(golden.text.null()), golden.predict(golden.text)
    assert_equal(unconditional + 3 * (conditional - unconditional), golden.io["out_cfg3"])


def test_masked_forward(golden):
    keep = golden.io["mask_ids_keep"]
    assert_equal(golden.predict(golden.text, keep), golden.io["out_masked"])
    assert torch.equal(visible(keep, golden.backbone.patches), golden.io["mask"] == 0)


def test_denoiser(golden):
    denoise = golden.objective.denoiser(golden.backbone, golden.text)
    assert_equal(denoise(golden.io["x_sigma"], golden.io["sigma"]), golden.io["denoised"])


@pytest.mark.parametrize("masked", [False, True])
def test_loss(golden, masked):
    loss = golden.objective.loss(
        golden.backbone,
        golden.io["x"],
        golden.text,
        level_normal=golden.io["loss_eps"].flatten(),
        noise=golden.io["loss_noise"],
        keep=golden.io["mask_ids_keep"] if masked else None,
    )
    assert_equal(loss.per_sample.mean()[None], golden.io["loss_masked" if masked else "loss"])


@pytest.mark.parametrize("scale", [1, 5])
def test_heun_sampling(golden, scale):
    denoise = guided_denoiser(golden.objective, golden.backbone, golden.text, scale)
    made = golden.sampler(denoise, golden.io["sample_latents_in"], sigmas=golden.sampler.sigmas(**golden.sigma_range))
    assert_equal(made, golden.io[f"sample_out_cfg{scale}"])
