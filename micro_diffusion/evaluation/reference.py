"""Features of real images, computed once and kept in a file that says of which images and network they are.

Legend: N images, D features of an image.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from micro_diffusion.evaluation.distances import Moments, moments
from micro_diffusion.evaluation.features import FeatureNetwork
from micro_diffusion.evaluation.image_folder import ImageFiles, Preparation, batches_of
from micro_diffusion.files.weight_file import read_tensors, write_tensors

WORKERS = 4
"""Processes that decode images, where there are enough of them to pay."""


class Reference(NamedTuple):
    """What generated images are compared with.

    features: (N, D) float32; None where a file of others holds moments alone.
    count: N; None where that is not known.
    """

    moments: Moments
    features: Tensor | None
    count: int | None


def features_of(
    images: ImageFiles,
    network: FeatureNetwork,
    *,
    batch_size: int = 32,
    on_batch: Callable[[int], object] | None = None,
) -> Tensor:
    """Features of all images, float32 (N, D).

    Args:
        images: prepared alike.
        network: makes the features.
        batch_size: images that the network sees at once.
        on_batch: called after each batch with its number of images.

    Raises:
        ValueError: when an image cannot be read, or they are of several sizes.
    """
    workers = WORKERS if len(images) >= 2000 else 0
    rows = []
    for batch in batches_of(images, batch_size=batch_size, workers=workers):
        rows.append(network(batch))
        if on_batch is not None:
            on_batch(len(batch))
    return torch.cat(rows)


def reference_of(
    source: Path,
    network: FeatureNetwork,
    *,
    preparation: Preparation,
    cache: Path,
    batch_size: int = 32,
    on_batch: Callable[[int], object] | None = None,
) -> Reference:
    """What images are compared with, from images, from the cache, or from a file of statistics.

    Args:
        source: a folder of image files or MDS images; a `.safetensors` file of the cache; or an `.npz` file with `mu`
            and `sigma`, as pytorch-fid and others publish.
        network: makes the features; its identity and the preparation are part of the cached file's name.
        preparation: of each image.
        cache: folder of the files that hold features.
        batch_size: images that the network sees at once.
        on_batch: called after each batch with its number of images.

    Raises:
        FileNotFoundError: when there is no such source.
        ValueError: for statistics of another network, or images prepared otherwise.
    """
    if source.suffix == ".npz":
        return _published(source)
    said = {**network.identity, "preparation": str(preparation)}
    if source.suffix == ".safetensors":
        return _cached(source, said)
    images = ImageFiles(source, preparation)
    key = json.dumps({**said, "images": images.digest()}, sort_keys=True)
    path = (
        cache / f"{network.identity['network']}-{hashlib.blake2b(key.encode(), digest_size=10).hexdigest()}.safetensors"
    )
    if not path.is_file():
        features = features_of(images, network, batch_size=batch_size, on_batch=on_batch)
        write_tensors(path, {"features": features}, **said, source=str(source))
    return _cached(path, said)


def _cached(path: Path, said: dict[str, str]) -> Reference:
    """The features of a file, which must be of this network and preparation."""
    features = read_tensors(path).get("features")
    try:
        with safe_open(path, framework="pt") as file:
            written = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read as statistics ({error}); remove it") from error
    if features is None:
        raise ValueError(f"{path} holds no features; give the folder of the real images instead")
    for key, value in said.items():
        if written.get(key) != value:
            raise ValueError(
                f"{path} has statistics with {key} {written.get(key)}, but this evaluation has {value}; give the "
                "folder of the real images instead"
            )
    return Reference(moments(features), features, len(features))


def _published(path: Path) -> Reference:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            mean, covariance = (torch.from_numpy(np.asarray(arrays[key], np.float64)) for key in ("mu", "sigma"))
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file of statistics {path}; give one, or a folder of images") from None
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"{path} holds no `mu` and `sigma` of features ({error}); give a folder of images") from error
    return Reference(Moments(mean, covariance), None, None)
