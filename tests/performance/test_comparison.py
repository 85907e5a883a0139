"""The comparison with the public code, run against a small stand-in for a clone of it."""

import importlib.util
import json
from pathlib import Path

import pytest

from micro_diffusion.performance.comparison import alternate

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "benchmark.py"
SIZE = {"dim": 64, "depth": 3, "mixer_depth": 1, "mixer_dim": 64}
OVERRIDES = [f"backbone.{key}={value}" for key, value in SIZE.items()]

# The public code's interface over our own network, whose weights are told under their released names.
NETWORK = f"""
import torch
from micro_diffusion.backbone.dit import SparseDiT
from micro_diffusion.condition import Condition
from micro_diffusion.released_weights import released_name

class Network(torch.nn.Module):
    def __init__(self, input_size, pos_interp_scale, in_channels):
        super().__init__()
        self.inner = SparseDiT(input_size=input_size, in_channels=in_channels, patch_size=2, head_dim=32,
                               caption_dim=1024, position_scale=pos_interp_scale, **{SIZE!r})

    def state_dict(self):
        state = {{released_name(key): value for key, value in self.inner.state_dict().items()}}
        weight = state["x_embedder.proj.weight"]
        state["x_embedder.proj.weight"] = weight.unflatten(1, (2, 2, -1)).permute(0, 3, 1, 2)
        return state

    def forward(self, x, level, text):
        return {{"sample": self.inner(x, level.expand(len(x)), Condition(text[:, 0])).value}}

MicroDiT_Tiny_2 = Network
"""
MODEL = """
import torch
from micro_diffusion.condition import Condition
from micro_diffusion.diffusion.edm import EDM
from micro_diffusion.sampling.guidance import guided_denoiser
from micro_diffusion.sampling.heun import HeunSampler

class LatentDiffusion(torch.nn.Module):
    def __init__(self, dit, vae, text_encoder, tokenizer, p_mean, p_std, latent_res, train_mask_ratio):
        super().__init__()
        self.dit = dit

    def forward(self, batch):
        x = batch["image_latents"]
        return self.dit(x, torch.zeros(len(x)), batch["caption_latents"])["sample"].square().mean()

    def loss(self, outputs, batch):
        return outputs

    @torch.no_grad()
    def edm_sampler_loop(self, x, y, steps, cfg):
        denoiser = guided_denoiser(EDM(sigma_data=0.9, P_mean=0, P_std=1), self.dit.inner, Condition(y[:, 0]), cfg)
        sampler = HeunSampler(steps=steps)
        return sampler(denoiser, x, sigmas=sampler.sigmas(sigma_min=0.002, sigma_max=80))
"""


@pytest.fixture
def clone(tmp_path):
    models = tmp_path / "clone" / "micro_diffusion" / "models"
    models.mkdir(parents=True)
    (models / "dit.py").write_text(NETWORK)
    (models / "model.py").write_text(MODEL)
    return tmp_path / "clone"


def compare(command: str, *arguments: object) -> dict:
    spec = importlib.util.spec_from_file_location("benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    options = ["--backbone", "tiny", "--batch-size", 2, "--repeats", 2, "--dtype", "fp32", "--device", "cpu"]
    return module.main([command, *map(str, [*options, *arguments]), *OVERRIDES])[0]


@pytest.mark.slow
def test_steps_are_timed_in_turn_and_memory_is_that_of_each_alone(clone, tmp_path):
    row = compare("compare-train", "--resolution", 64, "--reference", clone, "--json", tmp_path / "results.json")
    assert row == json.loads((tmp_path / "results.json").read_text())[0]
    assert row["times_faster_lowest"] <= row["times_faster"] <= row["times_faster_highest"]
    assert row["seconds_per_step"] > 0 and row["reference_seconds_per_step"] > 0
    assert row["peak_memory_ratio"] == row["peak_memory_bytes"] / row["reference_peak_memory_bytes"]


def test_the_ratio_is_the_median_of_pairs():
    seconds = iter([9.0, 9.0, 1.0, 2.0, 4.0, 4.0, 2.0, 6.0])
    assert alternate(seconds.__next__, seconds.__next__, repeats=3) == (2.0, 4.0, 2.0, 1.0, 3.0)


@pytest.mark.slow
def test_both_draw_the_same_from_the_same_weights_and_noise(clone):
    row = compare("compare-sample", "--resolution", 64, "--steps", 2, "--reference-steps", 2, "--reference", clone)
    assert row["largest_difference"] < 1e-5
    assert row["times_faster"] > 0


def test_what_cannot_be_compared_is_said(clone, tmp_path):
    with pytest.raises(ValueError, match="--reference a clone"):
        compare("compare-train")
    with pytest.raises(FileNotFoundError, match="model.py"):
        compare("compare-train", "--reference", tmp_path)
    with pytest.raises(ValueError, match="no size nano"):
        compare("compare-train", "--reference", clone, "--backbone", "nano")
