"""MDS latents as a streaming data set that loses nothing unnoticed."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from time import sleep, time_ns
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from streaming import StreamingDataset
from streaming.base.batching import generate_work
from streaming.base.constant import TICK
from streaming.base.format.mds import MDSReader

from micro_diffusion.batch import LatentBatch
from micro_diffusion.data.format.batch_memory import CaptionMemory
from micro_diffusion.data.stream.column_reader import ColumnReader, Columns
from micro_diffusion.data.stream.copies import claim
from micro_diffusion.data.stream.integrity import DamagedShard, check_shard, shard_path
from micro_diffusion.data.stream.mixture import Part, check_weights, common_metadata, identity
from micro_diffusion.data.stream.selection import Selection
from micro_diffusion.data.stream.shard_stream import ShardStream
from micro_diffusion.data.stream.shared_memory import registration
from micro_diffusion.data.stream.size_batches import ONE_SIZE

log = logging.getLogger(__name__)

_REMOTE, _LOCAL = 1, 3  # streaming's numbers for a shard that is to be fetched, and for one that is there
_ATTEMPTS = 7  # at a shard that another process may remove from a full cache at any time


class LatentDataset(StreamingDataset):
    """The rows of folders of MDS latents at one resolution, partitioned among ranks and workers.

    Iterating gives numbers of samples, each once its shard is there; `read` makes a batch of them, so that every byte
    is copied once, from the file to the batch, and of several captions only the one that is drawn is read.

    The streaming library ends an epoch early when one of its threads fails, and never verifies local shards. So here
    samples are counted, the thread's error is raised, and every shard's bytes are compared with their hash when it is
    first read.

    Latents of several sizes come in batches of one size each (stream/size_batches.py).

    Args:
        parts: the folders, local or remote, and how much of each.
        resolution: of the images whose latents are wanted, pixels.
        batch_size: samples of a batch on one rank; a resumed epoch is cut at its multiples.
        shuffle: draw a new order every epoch.
        seed: of that order, of which samples a mixture takes, and of which captions.
        verify: compare the bytes of shards with their hashes, which reads every shard once more in each worker.
        cache_limit: of all local copies of remote shards together, such as "100gb"; None keeps all. Streaming does
            not count those that are being fetched, of which each worker may have three at once.
        predownload: samples that each worker fetches in advance; None is 8 batches.
        keep_zip: keep the compressed form of shards beside the other.
        selection: which samples stay in every epoch; None keeps all.
        drop_last: leave out the incomplete batch of each size, where there are several; a loader leaves out others.

    Attributes:
        sizes: (h, w) of the latents, of each once.
        streams_by_size: for each of these, the numbers of the parts that have it.

    Raises:
        FileNotFoundError: when a folder is missing, empty or incomplete; the message names the command to make it.
        OSError: when another data set keeps its copies in the same folder.
        ValueError: when one has no latents of that resolution, a shard was cut short, the parts do not fit together, or
            there is a cache_limit for one that is not remote.
    """

    def __init__(
        self,
        *,
        parts: Sequence[Part],
        resolution: int,
        batch_size: int,
        shuffle: bool,
        seed: int,
        verify: bool = True,
        cache_limit: str | None = None,
        predownload: int | None = None,
        keep_zip: bool = False,
        selection: Selection | None = None,
        drop_last: bool = False,
    ) -> None:
        parts = [bucket for part in parts for bucket in part.buckets()]
        check_weights(parts)
        if selection is not None:
            selection.check(parts)
        if cache_limit:
            _check_removable(parts, cache_limit)
        held = [part.open() for part in parts]
        self.metadata = common_metadata(parts, held, resolution)
        self.identity = identity(parts, held) + ("" if selection is None else selection.identity)
        self._choices = [part.caption_choice(metadata, seed) for part, metadata in zip(parts, held, strict=True)]
        self.resolution, self.verify = resolution, verify
        self.batch_of_rank, self.drop_last = batch_size, drop_last
        self._prepared: set[int] = set()
        self._verified: set[int] = set()
        self._replaced: set[int] = set()
        self._memory = CaptionMemory()
        self._failure: BaseException | None = None
        self._due, self._epoch = 0, 0
        self._gaps: list[int] = []
        self._repeats: NDArray[np.bool_] | None = None
        for part in parts:
            if part.remote is not None:
                claim(part.folder, self)
        with registration([part.folder for part in parts]) as own:
            super().__init__(
                streams=[part.stream(verify=verify, keep_zip=keep_zip) for part in parts],
                batch_size=batch_size,
                shuffle=shuffle,
                shuffle_seed=seed,
                cache_limit=cache_limit,
                predownload=predownload,
            )
            own(self._shm_prefix_int)
        self._kept = None if selection is None else selection.kept(self.shards)
        if self._kept is not None:
            self.epoch_size = sum(self._samples_of_parts())
            self.length = math.ceil(self.epoch_size / self._parallel_rank_world.num_ranks)
            left_out = int(np.count_nonzero(~self._kept))
            log.info("%d of %d samples are left out", left_out, len(self._kept))
        by_size: dict[tuple[int, int], list[int]] = {}
        for number, metadata in enumerate(held):
            by_size.setdefault(metadata.latent_size(resolution), []).append(number)
        self.sizes, self.streams_by_size = list(by_size), list(by_size.values())
        if len(self.sizes) > 1:
            self._batch_by_size()
        self._forms = [metadata.row_format for metadata in held]
        self._readers: list[list[ColumnReader]] = []  # by part and caption
        for first, form in zip(self.shard_offset_per_stream, self._forms, strict=True):
            shard = cast(MDSReader, self.shards[first])
            names = [form.trained_columns(resolution, caption) for caption in range(form.captions_per_image)]
            self._readers.append([ColumnReader(shard, each) for each in names])

    def _batch_by_size(self) -> None:
        """Let every batch have one size, and count the epoch in whole batches."""
        self.batching_method = ONE_SIZE
        batch = self.batch_of_rank * self._parallel_rank_world.num_ranks
        counts = self.samples_by_size()
        for size, count in counts.items():
            if self.drop_last and 0 < count < batch:
                raise ValueError(
                    f"{count} samples have latents of {size[0]}×{size[1]} cells, fewer than a batch; set batch_size to "
                    "at most that, or drop_last=false"
                )
        batches = sum(count // batch if self.drop_last else math.ceil(count / batch) for count in counts.values())
        self.length = batches * self.batch_of_rank
        if self.drop_last and (rest := self.epoch_size - batches * batch):
            log.info("%d of %d samples fill no batch of one size, other ones in each epoch", rest, self.epoch_size)

    def place_after(self, batches: int) -> int:
        """The `sample_in_epoch` of a resumption after so many batches of all ranks, each of which counts as whole."""
        return batches * self.batch_of_rank * self._parallel_rank_world.num_ranks

    def samples_by_size(self) -> dict[tuple[int, int], int]:
        """How many samples of an epoch have latents of a size (h, w)."""
        counts = self._samples_of_parts()
        each = zip(self.sizes, self.streams_by_size, strict=True)
        return {size: sum(counts[stream] for stream in streams) for size, streams in each}

    def get_item(self, sample_id: int, retry: int = _ATTEMPTS) -> tuple[int, int]:
        """A sample's number and the epoch, by which `read` finds it and draws its caption."""
        return int(sample_id), self._epoch

    def resample_streams(self, epoch: int, stream_id: int | None = None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """How many samples of each shard make an epoch, and their numbers, without those that are left out."""
        units, numbers = super().resample_streams(epoch, stream_id)
        if self._kept is None:
            return units, numbers
        kept = self._kept[numbers]
        remaining = [int(part.sum()) for part in np.split(kept, np.cumsum(units)[:-1])]
        return np.array([count for count in remaining if count], np.int64), numbers[kept]

    def _samples_of_parts(self) -> list[int]:
        """How many samples of an epoch come from each part."""
        chosen, kept = [int(stream.choose) for stream in self.streams], self._kept
        if kept is None:
            return chosen
        whole = zip(chosen, self.sample_offset_per_stream, self.samples_per_stream, strict=True)
        return [number // held * int(kept[first : first + held].sum()) for number, first, held in whole]

    def first(self, count: int) -> list[tuple[int, int]]:
        """For `read`: the first samples of the first part, at most so many, as in the first epoch."""
        return [(sample, 0) for sample in range(min(count, int(self.samples_per_stream[0])))]

    def read(self, samples: Sequence[tuple[int, int] | tuple[int, int, bool] | None]) -> LatentBatch:
        """The batch of some samples of one size.

        Args:
            samples: each with its epoch, and in an evaluation on several ranks whether it is a repeat; None is none.

        Raises:
            OSError, ValueError: naming the shard, when it is missing, cut short, or not what was written.
        """
        there = [sample for sample in samples if sample is not None]
        part = self._part(there[0][0])
        columns = self._readers[part][0].allocate(len(there))
        for row, (sample, epoch, *_) in enumerate(there):
            self._read_row(sample, epoch, row, columns)
        batch = self._forms[part].batch(columns, self.resolution, self._memory)
        repeats = [repeat for _, _, *given in there for repeat in given]
        return {**batch, "repeated": torch.tensor(repeats)} if repeats else batch

    def _part(self, sample: int) -> int:
        number, _ = self.spanner[sample]
        return int(self.stream_per_shard[number])

    def _read_row(self, sample: int, epoch: int, row: int, columns: Columns) -> None:
        """Read one sample, its shard verified before the first of them, and fetched again if gone or damaged."""
        number, index = self.spanner[sample]
        shard: Any = self.shards[number]
        part = self.stream_per_shard[number]
        reader = self._readers[part][self._choices[part].draw(epoch, sample)]
        for attempt in range(1 + _ATTEMPTS):
            try:
                if self.verify and number not in self._verified:
                    check_shard(shard)
                    self._verified.add(number)
                reader.read(shard, index, row, columns)
                break
            except (FileNotFoundError, DamagedShard) as error:
                if attempt == _ATTEMPTS:
                    raise
                if isinstance(error, DamagedShard):
                    self._discard_copy(number, error)
                self._prepared.discard(number)
                self.prepare_shard(number)
        if self.cache_limit:
            self._shard_access_times[number] = time_ns()

    def _discard_copy(self, number: int, error: DamagedShard) -> None:
        """Remove a damaged copy of a remote shard, unless another worker has replaced it meanwhile.

        Raises:
            DamagedShard: when it is no copy.
            ValueError: when its replacement is damaged, too.
        """
        stream, shard = cast(ShardStream, self.streams[self.stream_per_shard[number]]), cast(Any, self.shards[number])
        if stream.remote is None:
            raise error
        if number in self._replaced:
            raise ValueError(
                f"the copy {shard_path(shard)} is damaged again, after it was fetched anew; check the disk that holds "
                f"it, or upload {stream.origin(shard)} again"
            ) from error
        stream.warn_of_damage(shard)
        self._replaced.add(number)
        if self._shard_states[number] == _LOCAL:
            self.evict_shard(number)

    def prepare_shard(self, shard_id: int, blocking: bool = True) -> None:
        """Fetch and decompress a shard that is not there; the library would take a file lock for every sample.

        Raises:
            FileNotFoundError, OSError, ValueError: of `ShardStream.prepare_shard`.
        """
        if shard_id in self._prepared and not self.cache_limit:
            return
        try:
            super().prepare_shard(shard_id, blocking)
        except Exception:
            # or other workers would wait for it forever; so they do not find it, and fail as this one does
            self._shard_states[shard_id] = _LOCAL
            raise
        self._prepared.add(shard_id)

    def _ready_thread(self, it: Any) -> None:
        """Let samples be given once their shards are there.

        The library's own thread waits forever for a shard that a full cache loses before the thread has looked.
        """
        while it.ready_index < it.total and not it.should_exit() and not self._event.is_set():
            far_ahead = it.ready_index - it.yield_index > self.predownload
            sample = it.sample_ids[it.ready_index]
            if not far_ahead and (sample < 0 or self._is_there(sample)):
                it.ready_index += 1
            else:
                sleep(TICK)
        it.on_exit()

    def _is_there(self, sample: int) -> bool:
        """Whether a sample's shard is there; fetches it where nobody does."""
        shard_id, _ = self.spanner[sample]
        state = self._shard_states[shard_id]
        if state == _REMOTE:
            self.prepare_shard(shard_id, blocking=False)
            state = self._shard_states[shard_id]
        return state == _LOCAL

    def on_exception(self, future: Future) -> None:
        """Keep the error of a thread for the reader, whom the library would leave without it."""
        if (error := future.exception()) is not None:
            self._failure = self._failure or error
            self._event.set()
            self._iterator.on_exit()  # or, when both threads fail, the library would wait for their ends forever

    def _get_work(self, epoch: int, sample_in_epoch: int) -> NDArray[np.int64]:
        """This worker's sample numbers; -1 stands for none."""
        work = super()._get_work(epoch, sample_in_epoch)
        there = np.flatnonzero(work >= 0)
        self._due, self._epoch = len(there), epoch
        self._gaps = (np.diff(there, prepend=-1) - 1).tolist()
        self._repeats = None
        world = self._parallel_worker_world
        if not self.shuffle and world.num_ranks > 1:
            everyone = generate_work(self.batching_method, self, world, epoch, sample_in_epoch)
            marked = np.empty(everyone.shape, bool)
            in_time = marked.transpose(3, 2, 4, 0, 1)  # batches, workers, samples, and then the ranks, dealt in turn
            in_time[...] = repeats(everyone.transpose(3, 2, 4, 0, 1), self.epoch_size)
            self._repeats = marked[world.node, world.rank_of_node, world.worker_of_rank].flatten()[work >= 0]
        return work

    def __iter__(self) -> Iterator[Any]:
        """This worker's share of the next epoch, or of the rest of one that is resumed; None fills a shorter batch.

        Raises:
            ValueError: when it ends before all samples were given; of the thread that failed, where one did.
        """
        self._due, given = 0, 0
        for sample in super().__iter__():
            yield from [None] * self._gaps[given]
            yield sample if self._repeats is None else (*sample, bool(self._repeats[given]))
            given += 1
        if self._failure is not None:
            raise self._failure
        if given != self._due:
            raise ValueError(
                f"the epoch ended after {given} of {self._due} samples; check the shards of the data, or make them "
                "again"
            )


def repeats(work: NDArray[np.int64], epoch_size: int) -> NDArray[np.bool_]:
    """Which entries are repeats that fill up the ranks, so that an evaluation can count each sample once.

    Those of a mixture that repeats samples of its own accord are not told apart from these, and none is marked there.

    Args:
        work: sample numbers of all ranks and workers in the order in which they come, of any shape; -1 stands for none.
        epoch_size: samples of an epoch.

    Returns:
        Of the same shape; true at all places of a number but the first.
    """
    numbers, first = np.unique(work, return_index=True)
    marked = np.zeros(work.size, bool)
    if np.count_nonzero(numbers >= 0) == epoch_size:
        marked[:] = True
        marked[first] = False
        marked &= work.ravel() >= 0
    return marked.reshape(work.shape)


def _check_removable(parts: Sequence[Part], cache_limit: str) -> None:
    """Raise ValueError for a part whose shards are no copies: the library would remove them all the same."""
    for part in parts:
        if part.remote is None:
            raise ValueError(
                f"cache_limit is {cache_limit}, but {part.path} has no remote from which removed shards could be "
                "fetched again; set cache_limit to null, or set the remote"
            )
