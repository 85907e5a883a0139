"""Latents of several sizes in one run: each batch of one size, every sample once, the same on any number of ranks."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from micro_diffusion.data.format.buckets import BUCKETS, buckets_text
from micro_diffusion.data.stream.loader import build_loader
from micro_diffusion.data.stream.mixture import Part
from micro_diffusion.data.stream.size_batches import one_size_batches
from tests.data.stream.test_loader import make_latents, numbers
from tests.forked_process import fork_ranks, wait

COUNTS = {"1x1": 27, "4x3": 18, "3x4": 5}
SIZES = {"1x1": (4, 4), "4x3": (2, 6), "3x4": (6, 2)}
BATCH = 8


@pytest.fixture
def folder(tmp_path):
    root, start = tmp_path / "buckets", 0
    for name, count in COUNTS.items():
        make_latents(root / name, count, start=start, size=SIZES[name])
        start += count
    (root / BUCKETS).write_text(buckets_text(COUNTS))
    return root


def load(folder, **changes):
    options = {"resolution": 8, "batch_size": BATCH, "shuffle": True, "seed": 0, **changes}
    return build_loader(path=str(folder), **options)


@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize("shuffle", [False, True])
def test_each_batch_has_one_size_and_every_sample_comes_once(folder, workers, shuffle):
    loader = load(folder, workers=workers, shuffle=shuffle)
    first, second = list(loader), list(loader)
    for batches in (first, second):
        assert len(batches) == len(loader) == sum(-(-count // BATCH) for count in COUNTS.values())
        assert sorted(numbers(batches)) == list(range(sum(COUNTS.values())))
        for batch in batches:
            of = next(name for name, size in SIZES.items() if size == batch["latents"].shape[2:])
            start = sum(list(COUNTS.values())[: list(COUNTS).index(of)])
            assert set(numbers([batch])) <= set(range(start, start + COUNTS[of]))
            assert [int(latent[0, 0, 0]) for latent in batch["latents"]] == numbers([batch])
    sizes = [tuple(batch["latents"].shape[2:]) for batch in first]
    assert (numbers(first) != numbers(second)) == shuffle
    assert (sizes != sorted(sizes, key=sizes.index)) or not shuffle
    assert [len(batch["caption"]) for batch in first] == [8] * 5 + [3, 2, 5]
    del loader


def test_incomplete_batches_can_be_left_out(folder):
    loader = load(folder, drop_last=True, batch_size=4)
    batches = list(loader)
    assert len(batches) == len(loader) == 6 + 4 + 1
    assert {len(batch["caption"]) for batch in batches} == {4}
    assert len(set(numbers(batches))) == 44
    with pytest.raises(ValueError, match="5 samples have latents of 6×2 cells, fewer than a batch; set batch_size to"):
        load(folder, drop_last=True)


@pytest.mark.parametrize("begun", [1, 4, 6, 8])
def test_an_epoch_resumes_where_it_stopped(folder, begun):
    loader = load(folder)
    first, second = ([numbers([batch]) for batch in loader] for _ in range(2))
    del loader
    interrupted = load(folder)
    batches = iter(interrupted)
    seen = [numbers([next(batches)]) for _ in range(begun)]
    state = interrupted.state_dict()
    del batches, interrupted
    resumed = load(folder, workers=2)
    resumed.load_state_dict(state)
    assert seen + [numbers([batch]) for batch in resumed] == first
    assert [numbers([batch]) for batch in resumed] == second
    del resumed


def on_ranks(folder, tmp_path, ranks, state=None, **changes):
    """The numbers of each batch on each rank, [rank][batch], and the state after three batches.

    A repeat in an evaluation is -1.
    """

    def read(rank):
        loader = load(folder, **changes)
        if state is not None:
            loader.load_state_dict(state)
        found, after = [], None
        for batch in loader:
            repeated = batch.get("repeated", [False] * len(batch["key"]))
            found.append([-1 if again else n for n, again in zip(numbers([batch]), repeated, strict=True)])
            after = loader.state_dict() if len(found) == 3 else after
        (tmp_path / f"{ranks}-{rank}.json").write_text(json.dumps([found, after]))

    children = fork_ranks(read, [tmp_path / f"{ranks}-{rank}.log" for rank in range(ranks)])
    assert wait(children, seconds=60) == [0] * ranks
    each = [json.loads((tmp_path / f"{ranks}-{rank}.json").read_text()) for rank in range(ranks)]
    return [found for found, _ in each], each[0][1]


def dealt(each):
    """The batches of all ranks; a sample that fills up a rank once."""
    assert len({len(found) for found in each}) == 1
    return [sorted(set().union(*batch)) for batch in zip(*each, strict=True)]


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_batch_of_all_ranks_is_the_same_on_any_number_of_them_also_after_resumption(folder, tmp_path, ranks):
    one = [sorted(numbers([batch])) for batch in load(folder)]
    each, state = on_ranks(folder, tmp_path, ranks)
    assert dealt(each) == one
    assert [len(batch) for batch in each[0]] == [8 // ranks] * 5 + [-(-rest // ranks) for rest in (3, 2, 5)]
    resumed = load(folder)
    resumed.load_state_dict(state)
    assert [sorted(numbers([batch])) for batch in resumed] == one[3:]
    del resumed
    loader = load(folder)
    batches = iter(loader)
    for _ in range(6):
        next(batches)
    state = loader.state_dict()
    del batches, loader
    each, _ = on_ranks(folder, tmp_path, ranks, state)
    assert dealt(each) == one[6:]


def test_an_evaluation_counts_each_sample_where_one_rank_would(folder, tmp_path):
    one = [numbers([batch]) for batch in load(folder, shuffle=False)]
    each, _ = on_ranks(folder, tmp_path, 4, shuffle=False)
    dealt_in_turn = [[n for row in zip(*batch, strict=True) for n in row] for batch in zip(*each, strict=True)]
    assert dealt_in_turn == [batch + [-1] * (-len(batch) % 4) for batch in one]


def test_samples_can_be_left_out_by_a_list(folder, tmp_path):
    (tmp_path / "bad.txt").write_text("\n".join(map(str, [0, *range(45, 50)])))  # all of one size among them
    loader = load(folder, exclude=str(tmp_path / "bad.txt"))
    assert sorted(numbers(loader)) == list(range(1, 45))
    assert len(loader) == 4 + 3
    del loader


def test_a_list_of_aspect_ratios_that_is_damaged_or_names_other_places_is_refused(folder):
    for text, said in (
        ("{", "cannot be read"),
        ('{"../1x1": 3}', "no plain name of a folder"),
        ("{}", "names no data"),
    ):
        (folder / BUCKETS).write_text(text)
        with pytest.raises(ValueError, match=said):
            load(folder)


def test_a_part_of_several_shapes_shares_batches_and_its_proportion(folder, tmp_path):
    square = make_latents(tmp_path / "square", 13, start=50)
    parts = {"several": Part(path=str(folder)), "square": Part(path=str(square))}
    loader = build_loader(mixture=parts, resolution=8, batch_size=BATCH, shuffle=True)
    batches = list(loader)
    assert sorted(numbers(batches)) == list(range(63))
    assert len(batches) == 40 // BATCH + 3 + 1  # both squares together fill five
    del loader
    proportions = [part.proportion for part in Part(path=str(folder), proportion=0.5).buckets()]
    assert proportions == [0.5 * count / 50 for count in COUNTS.values()]


class TwoSizes:
    """What an order needs of a data set: 29 samples of one size, and 17 of another from number 100 on."""

    partition_algo, shuffle, shuffle_seed, shuffle_algo, shuffle_block_size = "relaxed", True, 0, "py1e", 1 << 18
    streams_by_size, epoch_size, drop_last, starts = [[0], [1]], 46, False, {0: (29, 0), 1: (17, 100)}

    def __init__(self, first_nodes: int, batch_of_rank: int) -> None:
        self.num_canonical_nodes = self.initial_physical_nodes = first_nodes
        self.batch_of_rank = batch_of_rank

    def resample_streams(self, epoch, stream):
        count, start = self.starts[stream]
        return np.array([count]), np.arange(start, start + count)


def ordered(first_nodes: int, nodes: int, ranks: int) -> list[list[int]]:
    """The batches of 12 of an epoch that began on some nodes, as ranks of these nodes see them."""
    world = SimpleNamespace(num_nodes=nodes, ranks_per_node=ranks, workers_per_rank=2, num_ranks=nodes * ranks)
    work = one_size_batches(TwoSizes(first_nodes, 12 // (nodes * ranks)), world, 1, 0)  # pyright: ignore
    assert len({tuple((work[n, r] >= 0).sum(-1).flat) for n in range(nodes) for r in range(ranks)}) == 1
    found = [sorted(set(batch[batch >= 0].tolist())) for batch in work.transpose(3, 2, 0, 1, 4).reshape(-1, 12)]
    return [batch for batch in found if batch]


@pytest.mark.parametrize("first_nodes", [1, 2, 3])
def test_the_order_is_the_same_on_other_nodes_than_an_epoch_began_on(first_nodes):
    expected = ordered(first_nodes, first_nodes, 1)
    assert sorted(number for batch in expected for number in batch) == [*range(29), *range(100, 117)]
    for nodes, ranks in ((1, 1), (1, 4), (2, 1), (2, 3), (3, 2)):
        assert ordered(first_nodes, nodes, ranks) == expected
