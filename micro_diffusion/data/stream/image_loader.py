"""Folders of MDS images -> batches of images, for training an autoencoder."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch.utils.data import ConcatDataset, DataLoader
from torch.utils.data.distributed import DistributedSampler

from micro_diffusion.batch import ImageBatch
from micro_diffusion.bounds import NonNegativeInt, PositiveInt, Seed
from micro_diffusion.data.image.crops import CentreSquare
from micro_diffusion.data.sources.source import Rejected
from micro_diffusion.data.stream.images import ImageDataset, ImageSample
from micro_diffusion.data.stream.loader import prepare_worker


def build_image_loader(
    *,
    paths: Sequence[str],
    resolution: PositiveInt,
    batch_size: PositiveInt,
    shuffle: bool,
    seed: Seed = 0,
    workers: NonNegativeInt = 0,
) -> DataLoader:
    """The images of all folders together, as `ImageBatch`es of their centre squares.

    Args:
        paths: folders that `scripts/convert.py` made.
        resolution: side to which the centre squares are resized, pixels.
        batch_size: images of a batch on all ranks together.
        shuffle: draw a new order every epoch and drop the incomplete batch at its end.
        seed: of that order.
        workers: processes that decode images; 0 decodes in this one.

    Raises:
        FileNotFoundError: when a folder is missing or incomplete.
        ValueError: when the batch does not divide among the ranks, or is larger than the data set.
    """
    rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if batch_size % ranks:
        raise ValueError(f"batch_size {batch_size} does not divide among {ranks} ranks; make it a multiple of {ranks}")
    dataset = ConcatDataset([ImageDataset(path=path, resolutions=[resolution], cut=CentreSquare()) for path in paths])
    if shuffle and len(dataset) < batch_size:
        raise ValueError(f"{', '.join(paths)} hold {len(dataset)} images; set batch_size to at most that")
    return DataLoader(
        dataset,
        batch_size=batch_size // ranks,
        sampler=DistributedSampler(dataset, ranks, rank, shuffle=shuffle, seed=seed, drop_last=shuffle),
        num_workers=workers,
        drop_last=shuffle,
        collate_fn=collate,
        persistent_workers=workers > 0,
        worker_init_fn=prepare_worker,
    )


def collate(samples: Sequence[ImageSample | Rejected | None]) -> ImageBatch:
    """One resolution of each image -> a batch.

    Raises:
        ValueError: for an image that cannot be decoded any more.
    """
    images, captions, keys = [], [], []
    for sample in samples:
        if isinstance(sample, Rejected):
            raise ValueError(f"image {sample.key} cannot be used ({sample.reason}); convert its data set again")
        assert sample is not None, "squares take every image"
        (square,) = sample.crops.values()
        images.append(square)
        captions.append(sample.captions[0])
        keys.append(sample.key)
    return {"images": torch.stack(images), "caption": captions, "key": keys}
