"""`micro-diffusion data describe`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from micro_diffusion.autoencoder.autoencoder import Autoencoder
from micro_diffusion.autoencoder.identity import IdentityAutoencoder
from micro_diffusion.autoencoder.kl import KLAutoencoder
from micro_diffusion.cli.arguments import positive
from micro_diffusion.sampling.grid import captioned_grid
from micro_diffusion.sampling.image_file import make_folder, save_image
from micro_diffusion.sampling.pipeline import to_uint8

if TYPE_CHECKING:
    from micro_diffusion.data.prepare.description import DataFolder

_DESCRIPTION = """Numbers of a folder of MDS images or MDS latents (sizes, captions, moments of the latents and the
sigma_data that follows from them), and a contact sheet of its images."""

IMAGES, IMAGE_SIDE = 64, 160
"""How many images a contact sheet has, and how wide they are."""

SHOWN = 160
"""Characters of a caption on the sheet; a long description would push the images apart."""


def add(commands: Any) -> None:
    """Describe the command and its options to argparse."""
    data = commands.add_parser("data", help="look at prepared data").add_subparsers(required=True, metavar="COMMAND")
    parser = data.add_parser("describe", help="what a data folder holds", description=_DESCRIPTION)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of MDS images or MDS latents")
    parser.add_argument("--out", type=Path, help="JSON file; the sheet lies beside it (default: FOLDER.json)")
    parser.add_argument("--samples", type=positive, default=4096, help="to look at, evenly spaced (default: 4096)")
    parser.add_argument(
        "--autoencoder",
        metavar="FOLDER",
        help="the one that made the latents (default: the bundled one)",
    )
    parser.set_defaults(command=execute)


def execute(options: argparse.Namespace) -> None:
    """`micro-diffusion data describe`."""
    from micro_diffusion.data.prepare.description import (
        DataFolder,  # imports streaming; generating need not wait for it
    )

    folder = DataFolder(options.folder, count=options.samples)
    out = options.out or options.folder.with_name(f"{options.folder.name}.json")
    if out.suffix != ".json":
        raise ValueError(f"--out {out} does not end in .json; the contact sheet gets the same name with .png")
    make_folder(out.parent)
    if folder.holds_images and options.autoencoder is not None:
        raise ValueError(f"{options.folder} holds images, which need no --autoencoder; leave it out")
    described = folder.describe()
    print("\n".join(lines(described)))
    out.write_text(json.dumps(described, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if folder.holds_images:
        sheet = contact_sheet(*folder.images(IMAGES, IMAGE_SIDE))
    else:
        sheet = decoded_sheet(folder, options.autoencoder or "bundled:autoencoder")
    if sheet is None:
        print(
            f"\n{out}: the numbers; there is no contact sheet, because the autoencoder {described['autoencoder']} is "
            "not at hand: name its folder with --autoencoder"
        )
        return
    save_image(sheet, out.with_suffix(".png"), {"path": described["path"]})
    print(f"\n{out}: the numbers; {out.with_suffix('.png')}: {min(IMAGES, described['looked_at'])} images")


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


def find_autoencoder(name: str, place: str) -> Autoencoder | KLAutoencoder | None:
    """The autoencoder of that name: the identity, one of diffusers in a local folder, or a KL-VAE at `place`."""
    if name.startswith("identity"):
        return IdentityAutoencoder(std=float(name.partition("-std")[2] or 1))
    if Path(name).is_dir():
        from micro_diffusion.autoencoder.pretrained import PretrainedAutoencoder  # imports diffusers

        return PretrainedAutoencoder(path=name)
    autoencoder = KLAutoencoder.load(place)
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
