"""Folders of MDS latents -> batches for training and evaluation."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from streaming import StreamingDataLoader
from torch.utils.data import DataLoader

from micro_diffusion.bounds import NonNegativeFloat, NonNegativeInt, PositiveInt, Seed
from micro_diffusion.data.stream.latents import LatentDataset
from micro_diffusion.data.stream.mixture import Part
from micro_diffusion.data.stream.selection import Selection
from micro_diffusion.machine.processes import exit_with_parent


def build_loader(
    *,
    path: str | None = None,
    remote: str | None = None,
    mixture: Mapping[str, Part] | None = None,
    caption_probabilities: Sequence[NonNegativeFloat] | None = None,
    resolution: PositiveInt,
    batch_size: PositiveInt,
    shuffle: bool,
    seed: Seed = 0,
    workers: NonNegativeInt = 0,
    drop_last: bool = False,
    verify: bool = True,
    cache_limit: str | None = None,
    predownload: PositiveInt | None = None,
    keep_zip: bool = False,
    exclude: str | None = None,
    scores: str | None = None,
    minimum_scores: Mapping[str, float] | None = None,
) -> DataLoader:
    """A loader of `LatentBatch`es whose place in an epoch can be saved and resumed.

    Args:
        path: a folder that `scripts/precompute.py` made, also of several aspect ratios; where `remote` is set, the one
            that keeps its copies.
        remote: URL of the data, such as s3://bucket/latents; None where they are in `path`.
        mixture: several folders, by any names, in place of path and remote.
        caption_probabilities: of an image's captions in their order, to be the one that is drawn, such as [0.1, 0.9];
            None is all alike. Those of a mixture stand in its parts.
        resolution: of the images whose latents are wanted, pixels.
        batch_size: samples of a batch on all ranks together.
        shuffle: draw a new order every epoch.
        seed: of that order.
        workers: processes that read on each rank; 0 reads in this one.
        drop_last: leave out the incomplete batch at the end of an epoch, or that of each size of latents.
        verify: compare each shard's bytes with its hash when it is first read.
        cache_limit: of all local copies of remote shards together, such as "100gb"; None keeps all. Streaming does
            not count those that are being fetched, of which each worker may have three at once.
        predownload: samples that each worker fetches in advance; None is 8 batches.
        keep_zip: keep the compressed form of shards beside the other.
        exclude: text file with the keys of samples to leave out, one a line, as `key` in the data and `rejects.jsonl`
            have them; every key of local data is read once at the start. None leaves out none.
        scores: table with a column `key` and columns of numbers: a CSV file with a header, a parquet file, or a folder
            of these; for minimum_scores.
        minimum_scores: by column of scores the least that a sample needs to stay, such as {aesthetic: 5}.

    Raises:
        FileNotFoundError: when the folder is missing, empty or incomplete; the message names the command to make it.
        ValueError: when the batch does not divide among the ranks, no batch can be filled, or the folder has no
            latents of that resolution.
    """
    each = _batch_of_a_rank(batch_size)
    parts = _parts(path, remote, mixture, caption_probabilities)
    selection = Selection(exclude=exclude, scores=scores, minimum_scores=minimum_scores)
    dataset = LatentDataset(
        parts=parts,
        resolution=resolution,
        batch_size=each,
        shuffle=shuffle,
        seed=seed,
        verify=verify,
        cache_limit=cache_limit,
        predownload=predownload,
        keep_zip=keep_zip,
        selection=selection or None,
        drop_last=drop_last,
    )
    if drop_last and dataset.epoch_size < batch_size:
        named = " and ".join(part.path for part in parts)
        raise ValueError(f"{named} holds {dataset.epoch_size} samples; set batch_size to at most that")
    return (SizeBatchLoader if len(dataset.sizes) > 1 else StreamingDataLoader)(
        dataset,
        batch_size=each,
        num_workers=workers,
        drop_last=drop_last,
        collate_fn=dataset.read,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        worker_init_fn=prepare_worker,
    )


class SizeBatchLoader(StreamingDataLoader):
    """A loader of batches of one size each, for which a shorter one counts as a whole one.

    So the place in an epoch is the same on any number of ranks.
    """

    def _get_batch_size(self, batch: Any) -> int:
        assert self.batch_size is not None
        return self.batch_size


def _batch_of_a_rank(batch_size: int) -> int:
    ranks = int(os.environ.get("WORLD_SIZE", 1))
    if batch_size < 1 or batch_size % ranks:
        raise ValueError(f"batch_size {batch_size} does not divide among {ranks} ranks; make it a multiple of {ranks}")
    return batch_size // ranks


def _parts(
    path: str | None,
    remote: str | None,
    mixture: Mapping[str, Part] | None,
    caption_probabilities: Sequence[float] | None,
) -> list[Part]:
    """The parts of a mixture, or the one folder as the only part."""
    if mixture and (path or remote):
        raise ValueError(f"both a mixture and {path or remote} are set; set path and remote, or mixture, to null")
    if mixture and caption_probabilities:
        raise ValueError("caption_probabilities is set beside a mixture; set it in the parts of the mixture")
    if path:
        return [Part(path=path, remote=remote, caption_probabilities=caption_probabilities)]
    return list((mixture or {}).values())


def prepare_worker(worker: int) -> None:
    """Let a loader worker live exactly as long as its trainer.

    Ctrl-C and schedulers send their signals to the whole process group, while the trainer still finishes a step. When
    the trainer is killed, a worker that waits for the others of its data set would wait, and hold memory, for good.
    """
    os.setpgrp()
    exit_with_parent(signal.SIGKILL)
