"""MDS latents as a streaming data set that loses nothing unnoticed.

Legend: C latent channels, R resolution in pixels, f downsampling, L caption tokens, D caption width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from streaming import StreamingDataset

from micro_diffusion.data.integrity import check_folder, check_shard
from micro_diffusion.data.metadata import PRECOMPUTE, LatentMetadata
from micro_diffusion.data.shared_memory import remove_stale_segments


class LatentSample(TypedDict):
    """One picture: latents (C, R/f, R/f) float16, caption_tokens (L, D) float16, caption_length rows of them used."""

    latents: NDArray[np.float16]
    caption_tokens: NDArray[np.float16]
    caption_length: int
    caption: str
    key: str


class LatentDataset(StreamingDataset):
    """The rows of a folder of MDS latents, at one of its resolutions, partitioned among ranks and workers.

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

    def __getitem__(self, at: Any) -> Any:
        """One sample by its number."""
        row = super().__getitem__(at)
        return LatentSample(
            latents=row[f"latents_{self.resolution}"],
            caption_tokens=row["caption_tokens"],
            caption_length=row["caption_length"],
            caption=row["caption"],
            key=row["key"],
        )

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
