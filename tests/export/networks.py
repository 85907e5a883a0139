"""Runs of one small network of each kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate

from micro_diffusion.checkpoint import save_weights, write_config
from tests.run_folder import CONFIG

SIZES = {"input_size": 16, "in_channels": 3, "caption_dim": 24}
NETWORKS: dict[str, dict[str, Any]] = {
    "dit": CONFIG["backbone"],
    "tld": {
        "_target_": "micro_diffusion.backbone.conv_transformer.ConvTransformer",
        **SIZES,
        "patch_size": 4,
        "dim": 32,
        "depth": 2,
        "heads": 2,
        "use_caption_mask": True,
    },
    "unet": {
        "_target_": "micro_diffusion.backbone.unet.UNet",
        **SIZES,
        "width": 8,
        "multipliers": [1, 2],
        "blocks": 1,
        "groups": 4,
        "attention": [1],
        "cross_attention": True,
    },
    "pixel_unet": {
        "_target_": "micro_diffusion.backbone.pixel_unet.PixelUNet",
        **SIZES,
        "max_text_length": 16,
        "dim": 8,
        "dim_mults": [1, 2],
        "heads": 2,
        "head_dim": 4,
        "text_latents": 2,
    },
}


def make(folder: Path, name: str) -> Path:
    """A run of one of the networks, none of whose weights is zero."""
    torch.manual_seed(0)
    network = instantiate(NETWORKS[name], _convert_="all")
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    save_weights(folder, network.state_dict(), "raw")
    write_config(folder, {**CONFIG, "backbone": NETWORKS[name]})
    return folder
