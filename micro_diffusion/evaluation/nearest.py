"""Are generated images copies? The nearest training image of each, and how far unseen images are from training ones.

Legend: N generated images, M training images, U unseen images.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from micro_diffusion.data.image.crops import CentreSquare
from micro_diffusion.data.image.file_names import kind
from micro_diffusion.data.image.open_image import read_image
from micro_diffusion.data.image.transforms import crop, to_tensor
from micro_diffusion.data.sources.source import Rejected
from micro_diffusion.data.stream.images import ImageDataset

SIDE = 32
"""Pixels of the squares that are compared: copies of an image stay near it, while details and noise are gone."""


class Nearest(NamedTuple):
    """index: (N,) of the nearest training image. distance: (N,), root mean square difference of pixels in [0, 1]."""

    index: Tensor
    distance: Tensor


def nearest(images: Tensor, training: Tensor) -> Nearest:
    """uint8 (N, 3, S, S) and (M, 3, S, S) -> the nearest of the second to each of the first."""
    flat, others = (each.flatten(1).float() / 255 for each in (images, training))
    distance, index = torch.cdist(flat, others).min(dim=1)
    return Nearest(index, distance / flat.shape[1] ** 0.5)


def copied(generated: Tensor, unseen: Tensor) -> float:
    """Share of the generated images that are nearer to a training image than 95 % of unseen images are.

    generated (N,) and unseen (U,): distances of `nearest`. About 0.05 for a model that copies nothing.
    """
    return (generated < unseen.quantile(0.05)).float().mean().item()


def images_of_files(folder: Path, side: int) -> Tensor:
    """The image files of a folder, sorted by name -> uint8 (N, 3, side, side).

    Raises:
        FileNotFoundError: when there is none.
    """
    files = sorted(path for path in folder.glob("*") if kind(path.name) == "image")
    if not files:
        raise FileNotFoundError(f"there are no images in {folder}; generate some with --out {folder}")
    return torch.stack([to_tensor(crop(read_image(path.read_bytes()).rgb, (side, side))) for path in files])


def images_of_data(folder: Path, side: int) -> Tensor:
    """The images of a folder of MDS images, in order -> uint8 (M, 3, side, side)."""
    dataset = ImageDataset(path=folder, resolutions=[side], cut=CentreSquare())
    return torch.stack(list(_squares(dataset)))


def _squares(dataset: ImageDataset) -> Iterator[Tensor]:
    for index in range(len(dataset)):
        item = dataset[index]
        if item is not None and not isinstance(item, Rejected):
            yield next(iter(item.crops.values()))
