"""A run folder of a network with random weights, for tests that need one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from micro_diffusion.backbone.dit import SparseDiT
from micro_diffusion.checkpoint import save_weights, write_config

BACKBONE: dict[str, Any] = {
    "input_size": 16,
    "in_channels": 3,
    "patch_size": 4,
    "dim": 32,
    "depth": 2,
    "head_dim": 16,
    "caption_dim": 24,
    "multiple_of": 16,
    "mixer_depth": 1,
    "mixer_dim": 16,
    "experts": 2,
}

CONFIG: dict[str, Any] = {
    "text_encoder": {"_target_": "micro_diffusion.text.tiny.TinyTextEncoder", "dim": 24, "max_length": 16},
    "autoencoder": {"_target_": "micro_diffusion.autoencoder.identity.IdentityAutoencoder"},
    "backbone": {"_target_": "micro_diffusion.backbone.dit.SparseDiT", **BACKBONE},
    "objective": {"_target_": "micro_diffusion.diffusion.edm.EDM", "sigma_data": 0.5, "P_mean": 0.0, "P_std": 1.0},
    "sampler": {"_target_": "micro_diffusion.sampling.heun.HeunSampler", "steps": 3},
    "prompts": {
        "_target_": "micro_diffusion.sampling.prompts.Prompts",
        "captions": ["a large red circle on a white background", "a small blue star on a black background"],
        "guidance_scale": 2.0,
    },
}


def random_backbone(seed: int, **changes: Any) -> SparseDiT:
    """A network none of whose weights is zero, so that every input changes its output."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = SparseDiT(**{**BACKBONE, **changes})
        for parameter in backbone.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    return backbone.eval()


def make_run(folder: Path, *, raw: int | None = None, ema: int | None = 1) -> Path:
    """Write a run folder; `raw` and `ema` are the seeds of its weights, None for weights that it lacks."""
    write_config(folder, CONFIG)
    if raw is not None:
        save_weights(folder, random_backbone(raw).state_dict(), "raw")
    if ema is not None:
        save_weights(folder, random_backbone(ema).state_dict(), "ema")
    return folder
