"""A contact sheet of a data folder, and its numbers as text, for `micro-diffusion data describe`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from micro_diffusion.autoencoder.autoencoder import Autoencoder
from micro_diffusion.autoencoder.gaussian import GaussianAutoencoder
from micro_diffusion.autoencoder.identity import IdentityAutoencoder
from micro_diffusion.autoencoder.saved import load_autoencoder
from micro_diffusion.sampling.grid import captioned_grid
from micro_diffusion.sampling.pipeline import to_uint8

if TYPE_CHECKING:
    from micro_diffusion.data.prepare.description import DataFolder

IMAGES, IMAGE_SIDE = 64, 160
"""How many images a contact sheet has, and how wide they are."""

SHOWN = 160
"""Characters of a caption on the sheet; a long description would push the images apart."""


def decoded_sheet(folder: DataFolder, place: str) -> Image.Image | None:
    """A grid of decoded latents, or None when the autoencoder that made them is not at hand."""
    assert folder.metadata is not None
    autoencoder = find_autoencoder(folder.metadata.autoencoder, place)
    if autoencoder is None:
        return None
    latents, captions = folder.latents(IMAGES)
    with torch.no_grad():
        images = torch.cat([to_uint8(autoencoder.decode(part)) for part in latents.split(8)])
    return contact_sheet(images, captions)


def contact_sheet(images: Tensor, captions: Sequence[str]) -> Image.Image:
    """A grid of images, uint8 (N, 3, H, W), with the beginnings of their captions."""
    return captioned_grid(images, [text if len(text) <= SHOWN else f"{text[:SHOWN]} ..." for text in captions])


def find_autoencoder(name: str, place: str) -> Autoencoder | GaussianAutoencoder | None:
    """The autoencoder of that name: the identity, one of diffusers in a folder, or one of a training at `place`."""
    if name.startswith("identity"):
        return IdentityAutoencoder(std=float(name.partition("-std")[2] or 1))
    if Path(name).is_dir():
        from micro_diffusion.autoencoder.pretrained import PretrainedAutoencoder  # imports diffusers

        return PretrainedAutoencoder(path=name)
    autoencoder = load_autoencoder(place)
    return autoencoder if autoencoder.name == name else None


def lines(described: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """The numbers as text."""
    for key, value in described.items():
        if isinstance(value, Mapping):
            yield f"{indent}{key}:"
            yield from lines(value, indent + "  ")
        elif isinstance(value, list) and value and isinstance(value[0], str):
            yield f"{indent}{key}:"
            yield from (f"{indent}  {text}" for text in value)
        else:
            yield f"{indent}{key}: {_text(value)}"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)
