"""An epoch's order where latents have several sizes: every batch of all ranks together has one size.

The samples of each size come in the order that the streaming library gives a data set of them alone, cut into batches;
the whole batches of all sizes are then mixed. What is left of each size makes a shorter batch at the end of the epoch,
so that every sample comes once. Nothing of it depends on the number of ranks or workers.

Legend: N nodes, R ranks of a node, W workers of a rank, b batches of a worker, E samples of a batch on one rank; -1
stands for no sample.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from streaming.base.batching import batching_methods
from streaming.base.partition import get_partitions
from streaming.base.shuffle import get_shuffle
from streaming.base.world import World

if TYPE_CHECKING:
    from micro_diffusion.data.stream.latents import LatentDataset

ONE_SIZE = "one_size"
"""The name of this order among the library's batching methods."""


def one_size_batches(dataset: LatentDataset, world: World, epoch: int, sample_in_epoch: int) -> NDArray[np.int64]:
    """The numbers of an epoch's samples from a place on, (N, R, W, b, E).

    Args:
        dataset: its `streams_by_size` says which of its folders belong together.
        world: ranks and workers.
        epoch: counted from 0.
        sample_in_epoch: the place, for which a shorter batch counts as a whole one.
    """
    batch = dataset.batch_of_rank * world.num_ranks
    whole, rest = [], []
    for streams in dataset.streams_by_size:
        resampled = [dataset.resample_streams(epoch, stream) for stream in streams]
        units, numbers = (np.concatenate(arrays) for arrays in zip(*resampled, strict=True))
        ordered = _of_one_size(dataset, world, epoch, units, numbers)
        whole.append(ordered[: len(numbers) // batch])
        rest.append(ordered[len(numbers) // batch :])
    batches = np.concatenate(whole)
    if dataset.shuffle:
        size = np.repeat(np.arange(len(whole)), [len(ordered) for ordered in whole])
        np.random.default_rng((dataset.shuffle_seed, epoch)).shuffle(size)
        batches = batches[np.argsort(size, kind="stable").argsort()]  # those of a size stay in their order
    if not dataset.drop_last:
        batches = np.concatenate([batches, *rest])
    batches = batches[sample_in_epoch // batch :]
    nodes, ranks, workers = world.num_nodes, world.ranks_per_node, world.workers_per_rank
    filling = np.full((-len(batches) % workers, batch), -1, np.int64)
    batches = np.concatenate([batches, filling])
    shape = (len(batches) // workers, workers, nodes, ranks, dataset.batch_of_rank)
    return batches.reshape(shape).transpose(2, 3, 1, 0, 4)


def _of_one_size(
    dataset: LatentDataset, world: World, epoch: int, units: NDArray[np.int64], numbers: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Samples by their numbers, in pieces of `units` -> batches of all ranks (batches, N·R·E), the last one shorter."""
    nodes, ranks, canonical = world.num_nodes, world.ranks_per_node, dataset.num_canonical_nodes
    assert canonical is not None
    of_node = ranks * dataset.batch_of_rank
    if not len(numbers):
        return np.empty((0, nodes * of_node), np.int64)
    if dataset.shuffle:
        block = max(1, int((dataset.shuffle_block_size or 1) * len(numbers) / dataset.epoch_size))
        order = get_shuffle(dataset.shuffle_algo, units, canonical, dataset.shuffle_seed, epoch, block)
        numbers = numbers[order]
    shape = (canonical, nodes, 1, 1, of_node)  # each node reads shards of its own; its ranks come below
    first_nodes = dataset.initial_physical_nodes
    places = get_partitions(dataset.partition_algo, len(numbers), *shape, initial_physical_nodes=first_nodes)
    places = places.reshape(nodes, -1, of_node)
    last = places[:, -1].T
    there = last[last >= 0]
    filled = np.resize(there, -(-len(there) // (nodes * ranks)) * nodes * ranks)  # with some of the same batch again
    places[:, -1] = -1
    places[:, -1, : len(filled) // nodes] = filled.reshape(-1, nodes).T
    places = np.where(places < 0, -1, numbers[places])
    dealt = places.reshape(nodes, -1, dataset.batch_of_rank, ranks).transpose(1, 0, 3, 2)
    return dealt.reshape(-1, nodes * of_node)


batching_methods[ONE_SIZE] = one_size_batches  # pyright: ignore[reportArgumentType]
