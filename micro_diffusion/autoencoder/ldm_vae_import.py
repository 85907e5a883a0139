"""The public weights of "latent diffusion from scratch" (https://github.com/stanipov/pytorch-diffusion, models/vae.pt).

What leaves no trace in the weights stands in the configurations beside them, of which `import_ldm_vae` has vae.pt's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from micro_diffusion.autoencoder.ldm_vae import LdmVAE
from micro_diffusion.files.torch_archive import read_weights
from micro_diffusion.files.weight_file import read_tensors
from micro_diffusion.layers.resampling import DownsamplingKind, UpsamplingKind

_NAMES = (
    (r"^_encoder\.init_conv\.", "encoder.first."),
    (r"^_encoder\.downsample\.", "encoder.levels."),
    (r"^_encoder\.mid_block\.", "encoder.middle."),
    (r"^_encoder\.post_enc\.", "encoder.last."),
    (r"^_decoder\.conv_in\.", "decoder.first."),
    (r"^_decoder\.upscale\.", "decoder.levels."),
    (r"^_decoder\.mid_block\.", "decoder.middle."),
    (r"^_decoder\.post_up\.", "decoder.last."),
    (r"^pre_quantizer\.", "encoder.moments."),
    (r"^post_quantizer\.", "decoder.latents."),
    (r"\.block([12])\.proj\.", r".unit\1.convolution."),
    (r"\.block([12])\.norm\.", r".unit\1.norm."),
    (r"\.fn\.norm\.", ".norm."),
    (r"\.fn\.fn\.to_qkv\.", ".qkv."),
    (r"\.fn\.fn\.to_out\.0\.", ".out."),
    (r"\.fn\.fn\.to_out\.1\.", ".out_norm."),
)
"""Patterns of the public names and what takes their place in ours, one after another."""

_STRIDED = re.compile(r"(\.levels\.\d+)\.([01])\.")
"""The convolution and the norm of a resampling without pooling or interpolation, which ours number from 1."""


def import_ldm_vae(
    path: str | Path,
    folder: str | Path,
    *,
    groups: int = 4,
    heads: int = 1,
    downsampling_kind: DownsamplingKind = "average",
    upsampling_kind: UpsamplingKind = "nearest",
    tanh: bool = True,
    norm_eps: float = 1e-7,
    scaling: float = 0.18215,
) -> LdmVAE:
    """Write an autoencoder folder with the weights of such a file, and return the autoencoder.

    Args:
        path: a state dict, as .pt (read as data alone) or .safetensors.
        folder: to make; `autoencoder.path` of precompute and generate.
        groups: and the others, see `LdmVAE`: what the weights do not show, by default as vae.pt was trained.
        heads: of the attention.
        downsampling_kind: how the encoder halves the resolution.
        upsampling_kind: how the decoder doubles it.
        tanh: whether the decoder ends in one.
        norm_eps: of the last GroupNorms.
        scaling: of the latents, all channels alike.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it holds other weights.
    """
    state = _read(Path(path).expanduser())
    hidden = {
        "groups": groups,
        "heads": heads,
        "downsampling_kind": downsampling_kind,
        "upsampling_kind": upsampling_kind,
        "tanh": tanh,
        "norm_eps": norm_eps,
    }
    autoencoder = build_ldm_vae(state, hidden, scaling=scaling)
    autoencoder.save(folder)
    return autoencoder


def build_ldm_vae(state: Mapping[str, Tensor], hidden: Mapping[str, Any], *, scaling: float) -> LdmVAE:
    """The network that weights under public names belong to, with these weights, frozen.

    Args:
        state: public names and tensors.
        hidden: arguments of `LdmVAE` that no weight shows.
        scaling: of the latents.

    Raises:
        ValueError: when the weights are others, or do not fit these arguments.
    """
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    autoencoder = LdmVAE(**infer_config(shapes, heads=hidden["heads"]), **hidden)
    ours = {_rename(name, shapes): value for name, value in state.items()}
    ours |= {"shift": autoencoder.shift, "scaling": torch.full_like(autoencoder.scaling, scaling)}
    try:
        autoencoder.load_state_dict(ours)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"the weights do not fit {autoencoder.config}: {reason}; give what they were made with"
        ) from error
    return autoencoder.eval().requires_grad_(False)


def infer_config(shapes: Mapping[str, tuple[int, ...]], *, heads: int) -> dict[str, Any]:
    """The arguments of `LdmVAE` that follow from public names and the shapes of their weights.

    Raises:
        ValueError: when these are other weights.
    """
    needed = ("_encoder.init_conv.weight", "post_quantizer.weight", "_encoder.mid_block.1.fn.fn.to_qkv.weight")
    if absent := [name for name in needed if name not in shapes]:
        raise ValueError(f"these are no weights of that VAE: {absent[0]} is missing; give vae.pt or one of its kind")
    width, image_channels, *_ = shapes["_encoder.init_conv.weight"]
    if image_channels != 3:
        raise ValueError(f"these weights take images of {image_channels} channels; give some for 3")
    inner, channels, *_ = shapes["post_quantizer.weight"]
    levels, attended = _levels(shapes, "_encoder.downsample")
    blocks = sum(re.match(r"_encoder\.downsample\.\d+\.block1\.norm\.bias", name) is not None for name in shapes)
    return {
        "channels": channels,
        "inner_channels": None if inner == channels else inner,
        "downsampling": 2 ** (len(levels) - 1),
        "width": width,
        "multipliers": [after // width for after in levels],
        "blocks": blocks // len(levels),
        "encoder_attention": attended,
        "decoder_attention": _levels(shapes, "_decoder.upscale")[1],
        "head_dim": shapes["_encoder.mid_block.1.fn.fn.to_qkv.weight"][0] // 3 // heads,
    }


def _levels(shapes: Mapping[str, tuple[int, ...]], stack: str) -> tuple[list[int], list[int]]:
    """Channels after each level of a stack, and which levels have attention."""
    widths: list[int] = []
    attended: list[int] = []
    count = 1 + max((int(name.split(".")[2]) for name in shapes if name.startswith(f"{stack}.")), default=-1)
    for number in range(count):
        if f"{stack}.{number}.fn.norm.weight" in shapes:
            attended.append(len(widths))
        elif f"{stack}.{number}.block1.norm.weight" not in shapes:
            last, norms = f"{stack}.{number}.bias", (f"{stack}.{number}.{place}.bias" for place in (2, 1, 0))
            widths.append(shapes[next(name for name in (last, *norms) if name in shapes)][0])
    return widths, attended


def _rename(name: str, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """A public name in our words."""
    place = re.match(r"_(?:encoder\.downsample|decoder\.upscale)\.\d+\.", name)
    strided = place is not None and f"{place[0]}0.weight" in shapes
    for pattern, ours in _NAMES:
        name = re.sub(pattern, ours, name)
    return _STRIDED.sub(lambda found: f"{found[1]}.{int(found[2]) + 1}.", name) if strided else name


def _read(path: Path) -> dict[str, Tensor]:
    """A state dict of a file, on the CPU."""
    if path.suffix == ".safetensors":
        return read_tensors(path)
    state = read_weights(path)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no plain state dict; give vae.pt or one of its kind")
    return state
