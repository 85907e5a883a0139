"""Arguments of this package refuse what they cannot be, and every number that a stage sets declares its bounds."""

import math
import typing
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated, Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from micro_diffusion.doctor.examination import all_stages
from micro_diffusion.training.config_checks.arguments import argument_annotations, argument_types, fits
from micro_diffusion.training.config_checks.resolvers import register_resolvers
from micro_diffusion.training.nodes import is_node

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
DIT = "backbone.dit.SparseDiT"
MUON = "training.optimizers.muon.Muon"
ADAMW = "training.optimizers.adamw.adamw"
LATENTS = "training.latent_diffusion.LatentDiffusion"
AUTOENCODER = "training.autoencoder_training.AutoencoderTraining"
PART = "data.stream.mixture.Part"


@pytest.mark.parametrize(
    ("target", "argument", "right", "wrong"),
    [
        (DIT, "input_size", [8, [8, 12]], [0, [8, 0], 8.0]),
        (DIT, "head_dim", [1], [-8, 0]),
        (DIT, "depth", [1], [0]),
        (DIT, "mixer_depth", [0], [-1]),
        (DIT, "experts", [0], [-1]),
        (DIT, "qkv_ratio", [[0.5, 1]], [[0.5, 0], 1]),
        (DIT, "position_scale", [0.5], [0, math.inf, math.nan]),
        (DIT, "norm_eps", [1e-6], [0, -1]),
        (MUON, "momentum", [0, 0.99], [-1, 1, 2]),
        (MUON, "steps", [1], [0]),
        (MUON, "matrix_lr_scale", [0.1], [0, math.inf]),
        (ADAMW, "betas", [[0, 0.99]], [[0.9, 1], [-0.1, 0.9], [0.9]]),
        (ADAMW, "eps", [1e-8], [0]),
        (ADAMW, "lr", [0], [-1, math.inf]),
        (ADAMW, "weight_decay", [0], [-1]),
        ("training.optimizers.ema.EMA", "smoothing", [0.5], [0, 1, 2]),
        ("training.optimizers.ema.EMA", "start", ["0ba", "0.1dur"], ["-1ba", "zzz", 3]),
        ("training.optimizers.gradient_clipping.GradientClipping", "clipping_threshold", [0.25], [0]),
        (LATENTS, "train_mask_ratio", [0, 0.75], [-0.1, 1]),
        (LATENTS, "caption_drop", [0, 1], [-0.5, 1.5]),
        (LATENTS, "noise_bands", [[], [0.2, 1]], [[0], [math.inf]]),
        (LATENTS, "weight_dtype", ["bf16"], ["fp16"]),
        (AUTOENCODER, "kl_weight", [0], [-1]),
        (AUTOENCODER, "shrink", [[1, 2]], [[], [0]]),
        ("training.callbacks.image_logger.ImageLogger", "batch_size", [1], [0]),
        ("training.callbacks.nan_guard.NaNGuard", "max_skipped_batches", [0], [-1]),
        (PART, "repeat", [None, 0.5], [0, math.inf]),
        ("data.format.latent_formats.UInt8Latents", "limit", [8], [0]),
        ("data.format.pixel_format.CompressedPixels", "quality", [None, 1, 100], [0, 101]),
        ("diffusion.edm.EDM", "P_mean", [-3], [math.inf]),
        ("diffusion.edm.EDM", "sigma_data", [0.5], [0, math.inf]),
        ("sampling.heun.HeunSampler", "churn_sigma_max", [0, math.inf], [-1]),
        ("sampling.heun.HeunSampler", "steps", [1], [0]),
        ("data.prepare.preparation.Preparation", "eval_fraction", [0.05], [0, 1]),
        ("data.sources.image_folder.ImageFolder", "captions", [1], [0]),
    ],
)
def test_what_an_argument_cannot_be_is_refused(target: str, argument: str, right: list[Any], wrong: list[Any]):
    hint = argument_types(f"micro_diffusion.{target}")[argument]
    assert [value for value in right if not fits(value, hint)] == []
    assert [value for value in wrong if fits(value, hint)] == []


SIGNED = {"P_mean", "mean", "log_variance", "shift_factor"}
"""Numbers that may be any finite one."""


def test_every_number_of_the_stages_declares_its_bounds():
    register_resolvers()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        nodes = [OmegaConf.to_container(compose(stage)) for stage in all_stages(CONFIGS)]
    targets = set()
    while nodes:
        node = nodes.pop()
        if isinstance(node, dict):
            nodes += node.values()
            targets |= {node["_target_"]} if is_node(node) else set()
    bare = {
        f"{target}.{name}"
        for target in targets
        if target.startswith("micro_diffusion.")
        for name, hint in argument_annotations(resolve_name(target)).items()
        if typing.get_origin(hint) is not Annotated
        and name not in SIGNED
        and any(member in (int, float) for member in bare_members(hint))
    }
    assert bare == set()


def bare_members(hint: Any) -> list[Any]:
    """The alternatives of an annotation without bounds."""
    return [kind for kind in typing.get_args(hint) or [hint] if typing.get_origin(kind) is not Annotated]
