"""What storage formats cost: error of what is read back, change of a fixed model's loss.

Legend: N samples, C latent channels, h w latent cells, L caption tokens, D caption width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from micro_diffusion.checkpoint import Run
from micro_diffusion.data.format.columns import Entries
from micro_diffusion.data.format.row_format import RowFormat
from micro_diffusion.performance.counting import count_flops
from micro_diffusion.text.encoder import TextEncoder
from micro_diffusion.text.open_clip import OpenClipTextEncoder
from micro_diffusion.training.latent_diffusion import LatentDiffusion
from micro_diffusion.training.seeded_random import Draws
from micro_diffusion.training.trainable import Batch

Columns = dict[str, Entries]


def columns_of(
    form: RowFormat, latents: Mapping[int, Tensor], text_encoder: TextEncoder, captions: list[str]
) -> Columns:
    """N entries of each column of MDS latents; `latents` (N, C, h, w) by resolution."""
    columns: Columns = dict(form.captions.encode(text_encoder, captions))
    for resolution, values in latents.items():
        columns |= form.latents.encode(f"latents_{resolution}", values.numpy())
    return {**columns, "caption": captions, "key": [str(number) for number in range(len(captions))]}


def read_back(form: RowFormat, columns: Columns, resolution: int) -> Batch:
    """What a loader would make of the columns."""
    raw = {name: [_bytes(entry) for entry in columns[name]] for name in form.trained_columns(resolution)}
    return dict(form.batch(raw, resolution))


def relative_error(values: Tensor, exact: Tensor) -> float:
    """Root mean square of the difference, divided by that of the exact values."""
    return ((values - exact).square().mean() / exact.square().mean()).sqrt().item()


@torch.no_grad()
def evaluation_loss(run: Run, batch: Batch) -> float:
    """Mean loss of a run's model, in fp32, with the same noise and noise levels at every call."""
    model = LatentDiffusion(
        backbone=run.backbone,
        objective=run.objective,
        train_mask_ratio=0.0,
        caption_drop=0.0,
        noise_bands=[],
        cpu_precision="fp32",
    ).eval()
    size = len(batch["latents"])
    drawn = model.draw_eval(batch, Draws.of(0, "eval", size=size))
    parts = [{key: value[start : start + 32] for key, value in drawn.items()} for start in range(0, size, 32)]
    return torch.cat([model(part).per_sample for part in parts]).mean().item()


def random_clip(folder: Path, *, layers: int) -> OpenClipTextEncoder:
    """The text tower of ViT-H/14, its width and vocabulary, with random weights and `layers` of its 24 layers."""
    import open_clip

    text = {**_text_config(), "layers": layers}
    vision = {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    torch.manual_seed(0)
    state = open_clip.CLIP(**config).state_dict()
    save_file({key: value.contiguous() for key, value in state.items()}, folder / "open_clip_model.safetensors")
    written = json.dumps({"model_cfg": config, "preprocess_cfg": {}})
    (folder / "open_clip_config.json").write_text(written, encoding="utf-8")
    return OpenClipTextEncoder(model=str(folder))


def tower_flops() -> int:
    """Floating-point operations of ViT-H/14's whole text tower for one caption, counted."""
    from open_clip.transformer import TextTransformer

    settings = _text_config()
    with torch.device("meta"):
        tower = TextTransformer(**settings, output_dim=1024).eval()
        ids = torch.zeros(1, settings["context_length"], dtype=torch.long)
    with torch.no_grad():
        return count_flops(lambda: tower(ids))


def _text_config() -> dict[str, Any]:
    import open_clip

    config = open_clip.get_model_config("ViT-H-14")
    assert config is not None
    return config["text_cfg"]


def _bytes(entry: Any) -> bytes:
    if isinstance(entry, str):
        return entry.encode()
    return entry if isinstance(entry, bytes) else np.asarray(entry).tobytes()
