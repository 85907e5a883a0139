"""MDS latents as a streaming data set that loses nothing unnoticed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from streaming import StreamingDataset
from streaming.base.format.mds import MDSReader

from micro_diffusion.data.integrity import check_folder, check_shard
from micro_diffusion.data.metadata import PRECOMPUTE, LatentMetadata
from micro_diffusion.data.shared_memory import remove_stale_segments


class LatentDataset(StreamingDataset):
    """The rows of a folder of MDS latents, as `RowFormat.batch` takes them, partitioned among ranks and workers.

    A sample is the bytes of each column that training at one resolution needs.

    The streaming library ends an epoch early when one of its threads fails, and never verifies local shards. So here
    samples are counted and every shard's bytes are compared with their hash when it is first read.

    Args:
        path: a folder that `scripts/precompute.py` made.
        resolution: of the pictures whose latents are wanted, pixels.
        batch_size: samples of a batch on one rank; a resumed epoch is cut at its multiples.
        shuffle: draw a new order every epoch.
        seed: of that order.
        verify: compare the bytes of shards with their hashes, which reads every shard once more in each worker.

    Raises:
        FileNotFoundError: when the folder is missing, empty or incomplete; the message names the command to make it.
        ValueError: when it has no latents of that resolution, or a shard was cut short.
    """

    def __init__(
        self, *, path: str | Path, resolution: int, batch_size: int, shuffle: bool, seed: int, verify: bool = True
    ) -> None:
        self.path = Path(path).expanduser()
        samples = check_folder(self.path, command=PRECOMPUTE)
        self.metadata = LatentMetadata.read(self.path)
        if self.metadata.samples != samples:
            raise ValueError(
                f"{self.path} holds {samples} samples, but its record says {self.metadata.samples}; make it again"
            )
        self.metadata.latent_size(resolution)
        self.resolution = resolution
        self._verified: set[int] | None = set() if verify else None
        self._due = 0
        remove_stale_segments(self.path)
        super().__init__(local=str(self.path), batch_size=batch_size, shuffle=shuffle, shuffle_seed=seed)
        names = self.metadata.row_format.trained_columns(resolution)
        for shard in self.shards:
            shard.decode_sample = partial(raw_columns, shard, names)  # type: ignore[method-assign, arg-type]

    def get_item(self, sample_id: int, retry: int = 7) -> Any:
        """One row, its shard verified before the first of them."""
        with self._naming_lost_shards():
            if self._verified is not None:
                shard, _ = self.spanner[sample_id]
                if shard not in self._verified:
                    check_shard(self.shards[shard])  # type: ignore[arg-type]
                    self._verified.add(shard)
            return super().get_item(sample_id, retry)

    @contextmanager
    def _naming_lost_shards(self) -> Iterator[None]:
        """Name the shard in an error, where one is missing or cut short by now."""
        try:
            yield
        except (OSError, ValueError, RuntimeError):
            check_folder(self.path, command=PRECOMPUTE)
            raise

    def _get_work(self, epoch: int, sample_in_epoch: int) -> NDArray[np.int64]:
        """This worker's sample numbers; -1 stands for none."""
        work = super()._get_work(epoch, sample_in_epoch)
        self._due = int(np.count_nonzero(work >= 0))
        return work

    def __iter__(self) -> Iterator[Any]:
        """This worker's share of the next epoch, or of the rest of one that is resumed.

        Raises:
            RuntimeError: when it ends before all samples were given.
        """
        self._due, given = 0, 0
        with self._naming_lost_shards():
            for sample in super().__iter__():
                given += 1
                yield sample
        if given != self._due:
            raise RuntimeError(
                f"the epoch ended after {given} of {self._due} samples of {self.path} (see the error of the streaming "
                "thread above); check the folder's shards, or make it again"
            )


def raw_columns(shard: MDSReader, names: Sequence[str], row: bytes) -> dict[str, bytes]:
    """The bytes of some columns of a row, which holds the sizes of its variable columns and then all columns."""
    variable = [name for name, size in zip(shard.column_names, shard.column_sizes, strict=True) if not size]
    sizes = dict(zip(variable, np.frombuffer(row, np.uint32, len(variable)).tolist(), strict=True))
    columns, start = {}, 4 * len(variable)
    for name, size in zip(shard.column_names, shard.column_sizes, strict=True):
        end = start + (size or sizes[name])
        if name in names:
            columns[name] = row[start:end]
        start = end
    return columns
