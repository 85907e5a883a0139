"""Equality with both public networks of transformer latent diffusion: weights, inputs, outputs (tests/fixtures/tld_*).

Set TLD_GOLDEN and TLD_LEGACY_GOLDEN to the paths of other such files to test against those.
"""

import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from micro_diffusion.backbone.conv_transformer import ConvTransformer
from micro_diffusion.condition import Condition
from micro_diffusion.diffusion.objective import Objective
from micro_diffusion.diffusion.prediction import X0
from micro_diffusion.diffusion.process import LinearInterpolation
from micro_diffusion.diffusion.told import LinearTime as TimeTold
from micro_diffusion.diffusion.training_levels import Beta
from micro_diffusion.diffusion.weight import Uniform
from micro_diffusion.sampling.dpmpp_2m import DPMpp2MSampler
from micro_diffusion.sampling.euler import EulerSampler
from micro_diffusion.sampling.guidance import guided_denoiser
from micro_diffusion.sampling.noise_levels import LinearTime
from micro_diffusion.tld_weights import POSITIONS, Code, import_tld, infer_tld_config

FIXTURES = Path(__file__).parents[1] / "fixtures"
TOLERANCE = 1e-4
PATHS: dict[Code, str] = {
    "main": os.environ.get("TLD_GOLDEN") or str(FIXTURES / "tld_small.safetensors"),
    "legacy": os.environ.get("TLD_LEGACY_GOLDEN") or str(FIXTURES / "tld_legacy_small.safetensors"),
}


class Golden:
    """The tensors of a file, and our network built from its weights alone."""

    def __init__(self, code: Code):
        with safe_open(PATHS[code], "pt") as file:
            self.metadata = file.metadata()
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
        self.io = {key.removeprefix("io."): value for key, value in tensors.items() if key.startswith("io.")}
        self.weights = {key.removeprefix("weights."): v for key, v in tensors.items() if key.startswith("weights.")}
        self.backbone = network(self.weights, code, self.io["x"])
        self.condition = Condition(self.io["y"].reshape(len(self.io["x"]), 1, -1))

    def predict(self, condition: Condition) -> Tensor:
        return self.backbone(self.io["x"], self.io["noise_level"].flatten(), condition).value


def network(weights: dict[str, Tensor], code: Code, x: Tensor) -> ConvTransformer:
    height, width = x.shape[2:]
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    patches = height * width // shapes["denoiser_trans_block.patchify_and_embed.0.weight"][2] ** 2
    assert patches == shapes[POSITIONS][0]
    backbone = ConvTransformer(**infer_tld_config(shapes, code, input_size=(height, width)))
    backbone.load_state_dict(import_tld(weights, backbone))
    return backbone.eval().requires_grad_(False)


@pytest.fixture(scope="module", params=list(PATHS))
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(request.param)


def assert_equal(made: Tensor, expected: Tensor):
    """The largest error, relative to the largest number, is at most TOLERANCE."""
    assert made.shape == expected.shape
    assert expected.abs().max() > 0
    assert (made - expected).abs().max() <= TOLERANCE * expected.abs().max()


def test_the_prediction_is_the_public_one(golden: Golden):
    assert_equal(golden.predict(golden.condition), golden.io["out"])


def test_a_null_caption_is_the_public_one(golden: Golden):
    assert_equal(golden.predict(golden.condition.null()), golden.io["out_null"])


def test_the_two_codes_are_not_the_same_network():
    golden = Golden("legacy")
    golden.backbone = network(golden.weights, "main", golden.io["x"])
    error = (golden.predict(golden.condition) - golden.io["out"]).abs().max()
    assert error > 100 * TOLERANCE * golden.io["out"].abs().max()


@pytest.mark.parametrize("change", ["norm_placement", "interleaved_heads", "cross_heads"])
def test_each_of_the_three_differences_of_the_legacy_code_matters(change: str):
    """So that a file whose sizes hid one of them would be noticed."""
    golden = Golden("legacy")
    shapes = {key: tuple(value.shape) for key, value in golden.weights.items()}
    size = tuple(golden.io["x"].shape[2:])
    legacy, main = (infer_tld_config(shapes, code, input_size=size) for code in ("legacy", "main"))
    if main[change] == legacy[change]:
        pytest.skip("self-attention of this width has as many heads")
    golden.backbone = ConvTransformer(**legacy | {change: main[change]}).eval()
    golden.backbone.load_state_dict(import_tld(golden.weights, golden.backbone))
    assert (golden.predict(golden.condition) - golden.io["out"]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("sampler", "exponent", "name"),
    [
        (EulerSampler, 1.0, "sample_ddim"),
        (DPMpp2MSampler, 1.0, "sample_dpmpp_2m"),
        (DPMpp2MSampler, 2.0, "sample_dpmpp_2m_exponent_2"),
    ],
)
def test_trajectories_are_the_public_ones(sampler: type, exponent: float, name: str):
    """Their DDIM step is our Euler step; they start from 100·n at s = 0.99, where sigma is 99."""
    golden = Golden("main")
    steps, scale = int(golden.metadata["n_iter"]), float(golden.metadata["class_guidance"])
    levels = LinearTime(exponent=exponent, second_may_rise=True)(steps, sigma_min=0.01, sigma_max=99.0)
    told = torch.tensor([sigma / (1 + sigma) for sigma in levels])
    assert_equal(told, golden.io["noise_levels" if exponent == 1 else f"noise_levels_exponent_{exponent:g}"].flatten())
    objective = Objective(
        process=LinearInterpolation(),
        prediction=X0(),
        told=TimeTold(),
        levels=Beta(a=1.0, b=2.5),
        weight=Uniform(),
        sigma_min=0.01,
        sigma_max=99.0,
    )
    denoiser = guided_denoiser(objective, golden.backbone, golden.condition, scale)
    noise = golden.io["seeds"] * (100 / 99)
    assert_equal(sampler(steps=steps)(denoiser, noise, sigmas=[*levels, 0.0]), golden.io[name])
