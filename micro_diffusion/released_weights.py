"""Importer for the released MicroDiT weights (Sehwag et al. 2024, arXiv 2407.15811; four `.pt` files, XL/2).

A released file is the state dict of the network alone. Its keys and one layout differ from `SparseDiT`'s; the
configuration of the network follows from the shapes, but for the numbers that leave no trace in them (`RECIPE`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from micro_diffusion.backbone.dit import SparseDiT
from micro_diffusion.checkpoint import key_differences, plain_keys, save_weights, write_config
from micro_diffusion.files.torch_archive import read_weights
from micro_diffusion.files.weight_file import read_tensors

RECIPE = {"qkv_ratio": (0.5, 1.0), "mlp_ratio": (0.5, 4.0), "mixer_qkv_ratio": 1.0, "expert_capacity": 2.0}
"""Constructor arguments of the published sizes that shapes cannot tell (the ratios only through rounding)."""

PREFIXES = {
    "x_embedder.proj.": "patch_embedding.",
    "t_embedder.mlp.0.": "noise_embedding.fc1.",
    "t_embedder.mlp.2.": "noise_embedding.fc2.",
    "y_embedder.y_proj.": "caption_embedding.",
    "y_emb_preprocess.": "caption_block.",
    "pooled_y_emb_process.": "pooled_embedding.",
    "patch_mixer_map_xin.": "mixer_in.",
    "patch_mixer_map_xout.": "mixer_out.",
    "patch_mixer_map_y.": "mixer_caption.",
    "patch_mixer.": "mixer.",
    "final_layer.linear.": "final.",
    "final_layer.norm_final.": "final_norm.",
    "final_layer.adaLN_modulation.1.": "final_modulation.",
}
"""How released keys begin, and how `SparseDiT`'s do."""

INNER = {
    ".cross_attn.q_linear.": ".cross_attention.q.",
    ".cross_attn.kv_linear.": ".cross_attention.kv.",
    ".cross_attn.proj.": ".cross_attention.out.",
    ".attn.qkv.": ".attention.qkv.",
    ".attn.proj.": ".attention.out.",
    ".adaLN_modulation.1.": ".modulation.",
    ".mlp.": ".ffn.",
}
"""Names inside a block: released, and `SparseDiT`'s."""

NOT_NEEDED = ("pos_embed", "mask_token")
"""Released tensors without a counterpart: fixed positions are computed, and masked patches come back as zeros."""


def read_released(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a released `.pt` file (read with `weights_only=True`) or in a `.safetensors` file.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file holds anything but a state dict.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return plain_keys(read_tensors(path))
    if not path.is_file():
        raise FileNotFoundError(f"there is no weight file {path}; give a released MicroDiT .pt file")
    state = read_weights(path)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no plain state dict; give one of the released MicroDiT .pt files")
    return plain_keys(state)


def infer_config(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Constructor arguments of the `SparseDiT` that released keys of these shapes belong to.

    Args:
        shapes: released keys (not renamed) and their shapes.

    Raises:
        ValueError: when keys are missing without which nothing can be inferred.
    """
    needed = ("x_embedder.proj.weight", "pos_embed", "y_embedder.y_proj.fc1.weight", "blocks.0.attn.qkv.weight")
    absent = [key for key in needed if key not in shapes]
    if absent:
        raise ValueError(f"these are no MicroDiT weights: {', '.join(absent)} missing; give a released .pt file")
    flat = [key for key, axes in zip(needed, (4, 3, 2, 2), strict=True) if len(shapes[key]) != axes]
    if flat:
        raise ValueError(f"these are no MicroDiT weights: {', '.join(flat)} misshapen; give a released .pt file")
    dim, in_channels, patch, _ = shapes["x_embedder.proj.weight"]
    depth, mixer_depth = _count(shapes, "blocks"), _count(shapes, "patch_mixer")
    attention_dims = [shape[1] for key, shape in shapes.items() if re.match(r"blocks\.\d+\.attn\.proj", key)]
    hidden = [_hidden(key, shape) for key, shape in shapes.items() if re.search(r"\.mlp\.w1(\.weight)?$", key)]
    sparse = sorted(int(key.split(".")[1]) for key in shapes if re.match(r"blocks\.\d+\.mlp\.gate\.weight$", key))
    config: dict[str, Any] = {
        "input_size": math.isqrt(shapes["pos_embed"][1]) * patch,
        "in_channels": in_channels,
        "patch_size": patch,
        "dim": dim,
        "depth": depth,
        # attention widths are rounded up to a multiple of two heads
        "head_dim": math.gcd(*attention_dims) // 2,
        "caption_dim": shapes["y_embedder.y_proj.fc1.weight"][1],
        "qkv_ratio": RECIPE["qkv_ratio"],
        "mlp_ratio": RECIPE["mlp_ratio"],
        "multiple_of": math.gcd(*hidden),
        "mixer_depth": mixer_depth,
        "experts": shapes[f"blocks.{sparse[0]}.mlp.gate.weight"][0] if sparse else 0,
        "expert_capacity": RECIPE["expert_capacity"],
        "experts_every": sparse[0] + 1 if sparse else 1,
    }
    if mixer_depth:
        config |= _mixer_config(shapes)
    return config


def import_microdit(state: Mapping[str, Tensor], backbone: SparseDiT) -> dict[str, Tensor]:
    """A released state dict under `SparseDiT`'s names and in its layouts, ready for `backbone.load_state_dict`.

    Args:
        state: released keys and tensors; `pos_embed` and `mask_token` may be absent.
        backbone: the network that the weights are for; it stays as it is. It may live on the meta device.

    Raises:
        ValueError: that lists, under their released names, all keys that are missing, unexpected or misshapen; or says
            by how much the positions in the file differ from the network's.
    """
    released = {key: value for key, value in state.items() if key not in NOT_NEEDED}
    differences = key_differences(
        released_shapes(backbone), {key: tuple(value.shape) for key, value in released.items()}
    )
    if differences:
        raise ValueError(f"the MicroDiT weights do not fit the network: {differences}; choose a network of their size")
    if "pos_embed" in state:
        check_positions(state["pos_embed"], backbone)
    imported = {own_name(key): value for key, value in released.items()}
    # a patch vector is ordered (row, column, channel)
    imported["patch_embedding.weight"] = imported["patch_embedding.weight"].permute(0, 2, 3, 1).flatten(1)
    return imported


def released_shapes(backbone: SparseDiT) -> dict[str, tuple[int, ...]]:
    """The keys and shapes that released weights for `backbone` have, without those that are not needed."""
    shapes = {released_name(key): tuple(value.shape) for key, value in backbone.state_dict().items()}
    patch = backbone.patch_size
    shapes["x_embedder.proj.weight"] = (backbone.dim, backbone.in_channels, patch, patch)
    return shapes


def own_name(key: str) -> str:
    """A released key under `SparseDiT`'s name."""
    return _renamed(key, PREFIXES, INNER)


def released_name(key: str) -> str:
    """A key of `SparseDiT` under its released name; the inverse of `own_name`."""
    prefixes, inner = ({ours: theirs for theirs, ours in names.items()} for names in (PREFIXES, INNER))
    return _renamed(key, prefixes, inner)


def _renamed(key: str, prefixes: Mapping[str, str], inner: Mapping[str, str]) -> str:
    """The key with the one beginning and the one inner part that match replaced."""
    for old, new in prefixes.items():
        if key.startswith(old):
            key = new + key.removeprefix(old)
            break
    for old, new in inner.items():
        if old in key:
            return key.replace(old, new, 1)
    return key


def check_positions(pos_embed: Tensor, backbone: SparseDiT) -> None:
    """Compare a file's position table (1, T, D) with the one that the backbone has computed.

    Raises:
        ValueError: when they differ by more than rounding.
    """
    ours = backbone.get_buffer("positions")
    if ours.is_meta:
        return
    if pos_embed.shape[1:] != ours.shape:
        raise ValueError(
            f"pos_embed holds {pos_embed.shape[1]} positions of width {pos_embed.shape[2]}, but the network has "
            f"{ours.shape[0]} of width {ours.shape[1]}; set backbone.input_size to the size that the file was made for"
        )
    difference = (pos_embed[0].float() - ours.float()).abs().max().item()
    if difference > 1e-2:  # half precision rounds by up to 5e-4
        raise ValueError(
            f"pos_embed differs by up to {difference:.3g} from the network's fixed positions; set "
            f"backbone.position_scale (now {backbone.position_scale:g}) to the one that the file was made with: 1 for "
            "256 px, 2 for 512 px"
        )


def infer_position_scale(pos_embed: Tensor) -> float:
    """The scale by which a position table (1, T, D) was made: its second position begins with sin(1 / scale)."""
    second = pos_embed[0, 1, 0].item() if pos_embed.shape[1] > 1 else math.nan
    if not 0 < second <= 1:
        raise ValueError(f"pos_embed holds no fixed positions (its second one begins with {second}); download it again")
    return round(1 / math.asin(second), 2)


def import_run(path: str | Path, folder: str | Path) -> SparseDiT:
    """Released weights -> a run folder that generates, evaluates and initialises like any other; returns the network.

    Text encoder, autoencoder, objective and sampler are those of the publication.
    """
    state = read_released(path)
    config = infer_config({key: tuple(value.shape) for key, value in state.items()})
    config["position_scale"] = infer_position_scale(state["pos_embed"])
    backbone = SparseDiT(**config)
    weights = import_microdit(state, backbone)
    backbone.load_state_dict(weights)
    save_weights(folder, weights, "raw")
    write_config(folder, published_config(config))
    return backbone


def published_config(backbone: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration around a released network: what it was trained with and is sampled with."""
    sdxl = {"path": "stabilityai/stable-diffusion-xl-base-1.0", "subfolder": "vae"}
    sixteen_channels = {"path": "ostris/vae-kl-f8-d16", "subfolder": None}
    return {
        "text_encoder": {
            "_target_": "micro_diffusion.text.open_clip.OpenClipTextEncoder",
            "model": "hf-hub:apple/DFN5B-CLIP-ViT-H-14-378",
        },
        "autoencoder": {
            "_target_": "micro_diffusion.autoencoder.pretrained.PretrainedAutoencoder",
            **(sdxl if backbone["in_channels"] == 4 else sixteen_channels),
        },
        "backbone": {"_target_": "micro_diffusion.backbone.dit.SparseDiT", **backbone},
        "objective": {
            "_target_": "micro_diffusion.diffusion.edm.EDM",
            "sigma_data": 0.9,
            "P_mean": 0.0,
            "P_std": 0.6,
        },
        "sampler": {"_target_": "micro_diffusion.sampling.heun.HeunSampler", "steps": 30},
        "prompts": {
            "_target_": "micro_diffusion.sampling.prompts.Prompts",
            "captions": ["a lighthouse on a cliff at sunset, oil painting"],
        },
    }


def _count(shapes: Mapping[str, tuple[int, ...]], stack: str) -> int:
    """Blocks in `blocks` or `patch_mixer`."""
    return 1 + max((int(key.split(".")[1]) for key in shapes if re.match(rf"{stack}\.\d+\.", key)), default=-1)


def _hidden(key: str, shape: tuple[int, ...]) -> int:
    """Hidden width of a feed-forward layer from its first weight: (experts, D, hidden), or (hidden, D) when dense."""
    return shape[0] if key.endswith(".weight") else shape[2]


def _mixer_config(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The patch mixer's arguments; its ratio is that of a sparse block, or of a dense one times 3/2."""
    dim = shapes["patch_mixer.0.norm1.weight"][0]
    ratios = [
        _hidden(key, shape) / dim * (1.5 if key.endswith(".weight") else 1)
        for key, shape in sorted(shapes.items(), key=lambda item: item[0].endswith(".weight"))
        if re.match(r"patch_mixer\.\d+\.mlp\.w1(\.weight)?$", key)
    ]
    return {"mixer_dim": dim, "mixer_qkv_ratio": RECIPE["mixer_qkv_ratio"], "mixer_mlp_ratio": ratios[0]}
