"""Folders of MDS latents -> batches for training and evaluation."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from streaming import StreamingDataLoader
from torch.utils.data import DataLoader

from micro_diffusion.batch import LatentBatch
from micro_diffusion.data.latents import LatentDataset
from micro_diffusion.data.row_format import RowFormat
from micro_diffusion.parent_death import end_with_parent


def build_loader(
    *,
    path: str,
    resolution: int,
    batch_size: int,
    shuffle: bool,
    seed: int = 0,
    workers: int = 0,
    drop_last: bool = False,
    verify: bool = True,
) -> DataLoader:
    """A loader of `LatentBatch`es whose place in an epoch can be saved and resumed.

    Args:
        path: a folder that `scripts/precompute.py` made.
        resolution: of the pictures whose latents are wanted, pixels.
        batch_size: samples of a batch on all ranks together.
        shuffle: draw a new order every epoch.
        seed: of that order.
        workers: processes that read on each rank; 0 reads in this one.
        drop_last: leave out the incomplete batch at the end of an epoch.
        verify: compare each shard's bytes with its hash when it is first read.

    Raises:
        FileNotFoundError: when the folder is missing, empty or incomplete; the message names the command to make it.
        ValueError: when the batch does not divide among the ranks, no batch can be filled, or the folder has no
            latents of that resolution.
    """
    ranks = int(os.environ.get("WORLD_SIZE", 1))
    if batch_size < 1 or batch_size % ranks:
        raise ValueError(f"batch_size {batch_size} does not divide among {ranks} ranks; make it a multiple of {ranks}")
    each = batch_size // ranks
    dataset = LatentDataset(
        path=path, resolution=resolution, batch_size=each, shuffle=shuffle, seed=seed, verify=verify
    )
    if drop_last and dataset.metadata.samples < batch_size:
        raise ValueError(f"{path} holds {dataset.metadata.samples} samples; set batch_size to at most that")
    return StreamingDataLoader(
        dataset,
        batch_size=each,
        num_workers=workers,
        drop_last=drop_last,
        collate_fn=partial(collate, row_format=dataset.metadata.row_format, resolution=resolution),
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        worker_init_fn=prepare_worker,
    )


def prepare_worker(worker: int) -> None:
    """Let a loader worker live exactly as long as its trainer.

    Ctrl-C and schedulers send their signals to the whole process group, while the trainer still finishes a step. When
    the trainer is killed, a worker that waits for the others of its data set would wait, and hold memory, for good.
    """
    os.setpgrp()
    end_with_parent(signal.SIGKILL)


def collate(samples: Sequence[Mapping[str, bytes]], *, row_format: RowFormat, resolution: int) -> LatentBatch:
    """The bytes of B rows -> a batch."""
    return row_format.batch({name: [sample[name] for sample in samples] for name in samples[0]}, resolution)
