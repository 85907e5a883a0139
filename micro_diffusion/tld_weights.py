"""Importer for weights of transformer latent diffusion (github.com/apapiu/transformer_latent_diffusion).

Two networks have the same keys and shapes, so a file does not say which one it belongs to (`CODES`): the legacy one of
v0.1.0, which made the released `state_dict_378000.pth`, and today's, which reads that file and computes something else.
Today's code cannot be had from legacy weights by permuting them: its attention has no projection of the result.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from micro_diffusion.backbone.conv_transformer import ConvTransformer
from micro_diffusion.backbone.fourier_embedding import frequencies
from micro_diffusion.checkpoint import key_differences, plain_keys, save_weights, write_config
from micro_diffusion.files.torch_archive import read_weights

Code = Literal["legacy", "main"]

CODES: dict[Code, str] = {
    "legacy": "v0.1.0 of January 2024 (norms after each layer, interleaved heads, 4 heads of cross-attention)",
    "main": "the code since March 2024 (norms before each layer, contiguous heads, as many of cross-attention)",
}
"""Which network the weights belong to."""

HEAD_DIM = 64
LEGACY_CROSS_HEADS = 4

NAMES = {
    "fourier_feats.1.": "noise_embedding.fc1.",
    "fourier_feats.3.": "noise_embedding.fc2.",
    "label_proj.": "caption_embedding.",
    "norm.": "condition_norm.",
    "denoiser_trans_block.patchify_and_embed.0.": "patch_embedding.",
    "denoiser_trans_block.patchify_and_embed.2.": "patch_norm.",
    "denoiser_trans_block.patchify_and_embed.3.": "patch_projection.",
    "denoiser_trans_block.patchify_and_embed.4.": "embedding_norm.",
    "denoiser_trans_block.decoder_blocks.": "blocks.",
    "denoiser_trans_block.out_proj.0.": "final.",
}
"""How released keys begin, and how `ConvTransformer`'s do."""

INNER = {
    ".self_attention.qkv_linear.": ".attention.qkv.",
    ".cross_attention.q_linear.": ".cross_attention.q.",
    ".cross_attention.kv_linear.": ".cross_attention.kv.",
    ".mlp.mlp.0.": ".ffn.expand.",
    ".mlp.mlp.1.": ".ffn.convolution.",
    ".mlp.mlp.3.": ".ffn.contract.",
}
"""Names inside a block: released, and `ConvTransformer`'s."""

POSITIONS = "denoiser_trans_block.pos_embed.weight"
BUFFERS = ("fourier_feats.0.angular_speeds", "denoiser_trans_block.precomputed_pos_enc")
"""Fixed numbers, which are computed here, and compared where a file has them."""

_BLOCK = "denoiser_trans_block.decoder_blocks"
_NEEDED = {
    "fourier_feats.1.weight": 2,
    "label_proj.weight": 2,
    "denoiser_trans_block.patchify_and_embed.0.weight": 4,
    POSITIONS: 2,
    f"{_BLOCK}.0.mlp.mlp.0.weight": 4,
}


class TLDFile(NamedTuple):
    """A state dict with plain keys, and the step of the training checkpoint that it is from; None for weights alone."""

    state: dict[str, Tensor]
    step: int | None


def read_tld(path: str | Path) -> TLDFile:
    """Released weights, or the averaged ones of a training checkpoint {model_ema, opt_state, global_step}.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file holds neither.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no weight file {path}; give state_dict_378000.pth or a training checkpoint")
    content = read_weights(path)
    checkpoint = isinstance(content, dict) and "model_ema" in content
    state = content["model_ema"] if checkpoint else content
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(
            f"{path} holds neither a plain state dict nor a checkpoint with model_ema; give state_dict_378000.pth or a "
            "training checkpoint"
        )
    return TLDFile(plain_keys(state), int(content.get("global_step", 0)) if checkpoint else None)


def infer_tld_config(
    shapes: Mapping[str, tuple[int, ...]], code: Code, *, input_size: tuple[int, int] | None = None
) -> dict[str, Any]:
    """Constructor arguments of the `ConvTransformer` that released keys of these shapes belong to.

    Args:
        shapes: released keys (not renamed) and their shapes.
        code: which of the two networks, see `CODES`.
        input_size: latent cells, where they are no square.

    Raises:
        ValueError: when keys are missing without which nothing can be inferred, or the width fits neither code.
    """
    absent = [key for key in _NEEDED if key not in shapes]
    if absent:
        raise ValueError(
            f"these are no TLD weights: {', '.join(absent)} missing; give state_dict_378000.pth or a file like it"
        )
    flat = [key for key, axes in _NEEDED.items() if len(shapes[key]) != axes]
    if flat:
        raise ValueError(f"these are no TLD weights: {', '.join(flat)} misshapen; give a file like state_dict_378000")
    _, in_channels, patch, _ = shapes["denoiser_trans_block.patchify_and_embed.0.weight"]
    positions, dim = shapes[POSITIONS]
    side = math.isqrt(positions)
    if input_size is None and side**2 != positions:
        raise ValueError(f"the weights have {positions} positions, which are no square grid; they fit neither TLD code")
    heads = dim // HEAD_DIM
    cross_heads = LEGACY_CROSS_HEADS if code == "legacy" else heads
    if not heads or dim % heads or dim % cross_heads:
        raise ValueError(
            f"a width of {dim} has no {heads} heads of self-attention and {cross_heads} of cross-attention, so the "
            f"weights do not fit the {code} code of TLD; give weights of a width of {HEAD_DIM} times a whole number"
        )
    return {
        "input_size": input_size or side * patch,
        "in_channels": in_channels,
        "patch_size": patch,
        "dim": dim,
        "depth": 1 + max(int(key.split(".")[2]) for key in shapes if re.match(rf"{_BLOCK}\.\d+\.", key)),
        "heads": heads,
        "cross_heads": cross_heads,
        "caption_dim": shapes["label_proj.weight"][1],
        "mlp_ratio": shapes[f"{_BLOCK}.0.mlp.mlp.0.weight"][0] / dim,
        "noise_features": shapes["fourier_feats.1.weight"][1],
        "norm_placement": "post" if code == "legacy" else "pre",
        "interleaved_heads": code == "legacy",
    }


def import_tld(state: Mapping[str, Tensor], backbone: ConvTransformer) -> dict[str, Tensor]:
    """A released state dict under `ConvTransformer`'s names and in its layouts, ready for `backbone.load_state_dict`.

    Args:
        state: released keys and tensors; the two fixed buffers may be absent.
        backbone: the network that the weights are for; it stays as it is. It may live on the meta device.

    Raises:
        ValueError: that lists, under their released names, all keys that are missing, unexpected or misshapen; or says
            which fixed numbers are others.
    """
    released = {key: value for key, value in state.items() if key not in BUFFERS}
    differences = key_differences(
        released_tld_shapes(backbone), {key: tuple(value.shape) for key, value in released.items()}
    )
    if differences:
        raise ValueError(
            f"the weights fit neither code of TLD: {differences}; give state_dict_378000.pth or a file like it"
        )
    _check_buffers(state, released["fourier_feats.1.weight"].shape[1], len(released[POSITIONS]))
    imported = {own_name(key): value for key, value in released.items()}
    for key, value in imported.items():
        if key.endswith((".ffn.expand.weight", ".ffn.contract.weight")):
            imported[key] = value[:, :, 0, 0]  # a 1×1 convolution is a linear layer
    imported["positions"] = imported["positions"].T.reshape(backbone.positions.shape)
    return imported


def released_tld_shapes(backbone: ConvTransformer) -> dict[str, tuple[int, ...]]:
    """The keys and shapes that released weights for `backbone` have, without the fixed buffers."""
    shapes = {released_name(key): tuple(value.shape) for key, value in backbone.state_dict().items()}
    for key, shape in shapes.items():
        if re.search(r"\.mlp\.mlp\.[03]\.weight$", key):
            shapes[key] = (*shape, 1, 1)
    dim, *grid = backbone.positions.shape
    shapes[POSITIONS] = (math.prod(grid), dim)
    return shapes


def own_name(key: str) -> str:
    """A released key under `ConvTransformer`'s name."""
    return "positions" if key == POSITIONS else _renamed(key, NAMES, INNER)


def released_name(key: str) -> str:
    """A key of `ConvTransformer` under its released name; the inverse of `own_name`."""
    names, inner = ({ours: theirs for theirs, ours in table.items()} for table in (NAMES, INNER))
    return POSITIONS if key == "positions" else _renamed(key, names, inner)


def _renamed(key: str, names: Mapping[str, str], inner: Mapping[str, str]) -> str:
    """The key with the one beginning and the one inner part that match replaced."""
    old = next((old for old in names if key.startswith(old)), "")
    key = names.get(old, "") + key.removeprefix(old)
    for before, after in inner.items():
        key = key.replace(before, after)
    return key


def _check_buffers(state: Mapping[str, Tensor], features: int, positions: int) -> None:
    """Compare the fixed numbers that a file has with those that are computed here."""
    ours = {BUFFERS[0]: frequencies(features), BUFFERS[1]: torch.arange(positions)}
    for key, expected in ours.items():
        if key not in state:
            continue
        theirs = state[key].double()
        # half precision rounds by up to 1 in 2048
        if theirs.shape != expected.shape or not torch.allclose(theirs, expected.double(), rtol=1e-3):
            raise ValueError(
                f"{key} of the weights holds other numbers than both codes of TLD compute; it is of a fork"
            )


def import_tld_run(
    path: str | Path, folder: str | Path, around: Mapping[str, Any], code: Code | None = None
) -> tuple[ConvTransformer, Code]:
    """Weights of TLD -> a run folder that generates, evaluates and initialises like any other.

    Args:
        path: released weights, or a training checkpoint.
        folder: the run folder to make.
        around: the nodes of a run's config besides the backbone: what the network is trained and sampled with.
        code: which network they belong to; None takes a state dict for the released one (legacy) and a training
            checkpoint for one of today's (main).

    Returns:
        The network, and the code that was assumed.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it fits neither code.
    """
    file = read_tld(path)
    code = code or ("legacy" if file.step is None else "main")
    config = infer_tld_config({key: tuple(value.shape) for key, value in file.state.items()}, code)
    backbone = ConvTransformer(**config)
    weights = import_tld(file.state, backbone)
    backbone.load_state_dict(weights)
    save_weights(folder, {key: value.float() for key, value in weights.items()}, "raw" if file.step is None else "ema")
    node = {"_target_": "micro_diffusion.backbone.conv_transformer.ConvTransformer", **config}
    write_config(folder, {**around, "backbone": node})
    return backbone, code
