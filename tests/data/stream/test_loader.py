"""Batches of latents: all of them, in an order that follows from the seed, and never fewer unnoticed."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from streaming import MDSWriter

from micro_diffusion.data.format.caption_formats import EXACT_CAPTIONS
from micro_diffusion.data.format.columns import describe
from micro_diffusion.data.format.latent_formats import EXACT_LATENTS
from micro_diffusion.data.format.record import write_record
from micro_diffusion.data.prepare.description import DataFolder
from micro_diffusion.data.stream.latents import repeats
from micro_diffusion.data.stream.loader import build_loader
from tests.forked_process import fork_ranks, wait

COUNT = 50


def make_latents(folder, count=COUNT, size_limit="1kb", compression=None, start=0, size=(4, 4), **changes):
    """Sample i, from `start` on, has latents full of i, and a caption of i % 5 + 1 rows full of i + 1.

    size: of the latents at 8 px; those at 16 px have 8×8 cells.
    """
    columns = {
        "latents_8": f"ndarray:float16:3,{size[0]},{size[1]}",
        "latents_16": "ndarray:float16:3,8,8",
        "caption_tokens": "ndarray:float16:6,2",
        "caption_length": "int",
        "caption": "str",
        "key": "str",
    }
    form = {"columns": columns, "compression": compression, "hashes": ["xxh64"], "size_limit": size_limit}
    with MDSWriter(out=str(folder), **form) as writer:
        for i in range(start, start + count):
            tokens = np.zeros((6, 2), np.float16)
            tokens[: i % 5 + 1] = i + 1
            latents = {f"latents_{r}": np.full((3, *cells), i, np.float16) for r, cells in ((8, size), (16, (8, 8)))}
            text = {"caption_tokens": tokens, "caption_length": i % 5 + 1, "caption": f"number {i}", "key": str(i)}
            writer.write({**latents, **text})
    encoders = {"autoencoder": "a", "channels": 3, "downsampling": 2, "text_encoder": "t"}
    sizes = {
        "latent_sizes": {"8": list(size)},
        "caption_dim": 2,
        "caption_length": 6,
        "latent_std": {"8": 1.0, "16": 1.0},
    }
    formats = {"latent_format": describe(EXACT_LATENTS), "caption_format": describe(EXACT_CAPTIONS)}
    write_record(folder, {}, **{"samples": count, "resolutions": [8, 16], **encoders, **sizes, **formats, **changes})
    return folder


def load(folder, **changes):
    options = {"resolution": 8, "batch_size": 8, "shuffle": False, "seed": 0, **changes}
    return build_loader(path=str(folder), **options)


def numbers(batches) -> list[int]:
    return [int(caption.split()[1]) for batch in batches for caption in batch["caption"]]


def test_a_batch_has_the_stated_form(folder):
    batch = next(iter(load(folder, resolution=16)))
    assert batch["latents"].shape == (8, 3, 8, 8)
    assert batch["latents"].dtype == torch.float32
    assert batch["caption_tokens"].dtype == torch.float16
    assert batch["caption_tokens"].shape == (8, 6, 2)
    assert batch["caption_mask"].dtype == torch.bool
    for i in range(8):
        number = int(batch["caption"][i].split()[1])
        assert (batch["latents"][i] == number).all()
        assert batch["caption_mask"][i].tolist() == [row <= number % 5 for row in range(6)]
        assert (batch["caption_tokens"][i][batch["caption_mask"][i]] == number + 1).all()
        assert not batch["caption_tokens"][i][~batch["caption_mask"][i]].any()


@pytest.mark.parametrize("resolution", [8, 16])
def test_only_the_latents_of_the_trained_resolution_are_read(folder, monkeypatch, resolution):
    read, preadv = [], os.preadv
    monkeypatch.setattr(os, "preadv", lambda *given: read.append(preadv(*given)) or read[-1])
    assert len(numbers(load(folder, resolution=resolution, verify=False))) == COUNT
    bytes_read = sum(read)
    columns = DataFolder(folder, count=COUNT).describe()["bytes_per_sample"]
    other = columns.pop(f"latents_{24 - resolution}")
    assert bytes_read / COUNT == pytest.approx(sum(columns.values()))
    assert other == pytest.approx(2 * 3 * (12 - resolution // 2) ** 2, abs=20)  # two bytes a number, and a header


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_gives_every_sample_once(folder, workers):
    loader = load(folder, shuffle=True, seed=3, workers=workers)
    for _ in range(2):
        batches = list(loader)
        assert sorted(numbers(batches)) == list(range(COUNT))
    del loader


def test_the_order_follows_from_the_seed_and_changes_with_the_epoch(folder):
    loader = load(folder, shuffle=True, seed=0)
    first, second = numbers(loader), numbers(loader)
    del loader
    assert first != second
    assert numbers(load(folder, shuffle=True, seed=0)) == first
    assert numbers(load(folder, shuffle=True, seed=1)) != first
    assert numbers(load(folder)) == numbers(load(folder, seed=1))


def test_an_incomplete_batch_can_be_left_out(folder):
    assert [len(batch["caption"]) for batch in load(folder)][-1] == COUNT % 8
    assert {len(batch["caption"]) for batch in load(folder, drop_last=True)} == {8}


def test_an_epoch_resumes_where_it_stopped(folder):
    loader = load(folder, shuffle=True)
    whole = numbers(loader)
    loader = load(folder, shuffle=True)
    batches = iter(loader)
    begun = numbers([next(batches), next(batches)])
    state = loader.state_dict()
    resumed = load(folder, shuffle=True)
    resumed.load_state_dict(state)
    assert begun + numbers(resumed) == whole


@pytest.mark.parametrize("workers", [0, 2])
def test_changed_bytes_are_noticed(folder, workers):
    shard = sorted(folder.glob("*.mds"))[3]
    content = bytearray(shard.read_bytes())
    content[-20] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ValueError, match="have changed since it was written; make the data folder again"):
        list(load(folder, workers=workers))
    assert len(numbers(load(folder, verify=False))) == COUNT


def truncate(shard, index):
    shard.write_bytes(shard.read_bytes()[:-9])


def empty(shard, index):
    shard.write_bytes(b"")


def change(shard, index):
    content = bytearray(shard.read_bytes())
    content[-20] ^= 1
    shard.write_bytes(content)


def change_hash(shard, index):
    shards = json.loads(index.read_text())
    for info in shards["shards"]:
        for file in filter(None, (info["raw_data"], info["zip_data"])):
            if file["basename"] == shard.name:
                file["hashes"] = {"xxh64": "0" * 16}
    index.write_text(json.dumps(shards))


def rename_in_index(shard, index, form, name):
    """Let the index tell another file name of a shard, which is compressed or has no compressed form."""
    content = json.loads(index.read_text())
    for info in content["shards"]:
        if any(file and file["basename"] == shard.name for file in (info["raw_data"], info["zip_data"])):
            info[form]["basename"] = name
    index.write_text(json.dumps(content))


def remove(shard, index):
    shard.unlink()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", [remove, truncate, empty, change])
def test_a_shard_that_is_damaged_while_it_is_used_is_named(folder, damage, workers):
    loader = load(folder, workers=workers)
    shard = sorted(folder.glob("*.mds"))[3]
    damage(shard, folder / "index.json")
    with pytest.raises((ValueError, OSError), match=shard.name):
        list(loader)


@pytest.mark.parametrize(
    ("name", "form", "compression"),
    [
        ("../outside.mds", "raw_data", None),
        ("../outside.mds", "raw_data", "zstd"),
        ("../outside.mds", "zip_data", "zstd"),
        ("/etc/passwd", "raw_data", None),
        ("a/b.mds", "raw_data", None),
        ("..", "raw_data", None),
        ("", "raw_data", None),
    ],
)
def test_an_index_names_no_files_outside_of_its_folder(tmp_path, name, form, compression):
    folder = make_latents(tmp_path / "latents", compression=compression)
    shard = sorted(folder.glob("*.mds*"))[3]
    shutil.copy(shard, tmp_path / "outside.mds")
    rename_in_index(shard, folder / "index.json", form, name)
    with pytest.raises(
        ValueError, match=f"index.json lists the shard '{name}', which is no plain name of a file; make"
    ):
        load(folder)


def test_an_index_of_other_files_than_mds_is_refused(folder):
    index = folder / "index.json"
    index.write_text(index.read_text().replace('"format": "mds"', '"format": "csv"'))
    with pytest.raises(ValueError, match="index.json lists shards of the format 'csv' instead of 'mds'; make it with"):
        load(folder)


def test_a_shard_that_vanishes_is_said_to_be_gone(folder):
    loader = load(folder)
    shard = sorted(folder.glob("*.mds"))[3]
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=f"the shard .*{shard.name} is gone; make the data folder again$"):
        list(loader)


@pytest.mark.parametrize("damage", [remove, truncate, empty])
def test_without_hashes_a_shard_that_is_gone_or_short_is_named(folder, damage):
    loader = load(folder, verify=False)
    shard = sorted(folder.glob("*.mds"))[3]
    damage(shard, folder / "index.json")
    with pytest.raises((ValueError, OSError), match=shard.name):
        list(loader)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_wrong_hash_in_the_index_names_the_shard(folder, workers):
    shard = sorted(folder.glob("*.mds"))[3]
    change_hash(shard, folder / "index.json")
    with pytest.raises(ValueError, match=f"{shard.name} have changed"):
        list(load(folder, workers=workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_compressed_shards_are_read_and_a_corrupt_one_is_named(tmp_path, workers):
    whole = make_latents(tmp_path / "whole", compression="zstd")
    assert numbers(load(whole, workers=workers)) == list(range(COUNT))
    broken = make_latents(tmp_path / "broken", compression="zstd")
    shard = sorted(broken.glob("*.zstd"))[3]
    change(shard, broken / "index.json")
    with pytest.raises(ValueError, match=shard.stem):
        list(load(broken, workers=workers))


def test_an_epoch_resumes_with_another_batch_size_and_number_of_workers(folder):
    loader = load(folder, shuffle=True, batch_size=4)
    batches = iter(loader)
    begun = numbers([next(batches) for _ in range(4)])
    state = loader.state_dict()
    del batches, loader
    resumed = load(folder, shuffle=True, batch_size=2, workers=2)
    resumed.load_state_dict(state)
    assert sorted(begun + numbers(resumed)) == list(range(COUNT))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_that_ends_short_is_an_error(folder, workers, monkeypatch):
    loader = load(folder, workers=workers)
    each_sample = type(loader.dataset)._each_sample_id
    monkeypatch.setattr(type(loader.dataset), "_each_sample_id", lambda self, it: list(each_sample(self, it))[:-1])
    with pytest.raises(ValueError, match="the epoch ended after"):
        list(loader)


def test_missing_and_incomplete_folders_name_the_command(folder, tmp_path):
    remedy = r"; make it with: python scripts/precompute\.py images=IMAGES out="
    with pytest.raises(FileNotFoundError, match="there is no data folder .*none" + remedy):
        load(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="is empty or incomplete" + remedy):
        load(tmp_path / "empty")
    shard = sorted(folder.glob("*.mds"))[0]
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=rf"has {len(content) - 1} bytes instead of {len(content)}{remedy}"):
        load(folder)
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks its shard {shard.name}{remedy}"):
        load(folder)


def test_bad_arguments_say_what_to_set(folder, monkeypatch):
    with pytest.raises(ValueError, match="latents at 8, 16 px, not at 32; set resolution"):
        load(folder, resolution=32)
    with pytest.raises(ValueError, match=f"holds {COUNT} samples; set batch_size to at most that"):
        load(folder, batch_size=64, drop_last=True)
    with pytest.raises(ValueError, match=f"cache_limit is 1gb, but {folder} has no remote .*; set cache_limit to null"):
        load(folder, cache_limit="1gb")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ValueError, match="batch_size 8 does not divide among 3 ranks"):
        load(folder)


@pytest.mark.parametrize(("count", "workers"), [(7, 0), (6, 0), (9, 2)])
def test_an_evaluation_counts_each_sample_once_however_many_ranks_there_are(tmp_path, count, workers):
    folder = make_latents(tmp_path / "latents", count=count)

    def evaluate(rank: int) -> None:
        batches = list(load(folder, batch_size=4, workers=workers))
        pairs = [pair for batch in batches for pair in zip(numbers([batch]), batch["repeated"], strict=True)]
        kept = [number for number, again in pairs if not again]
        (tmp_path / f"{rank}.json").write_text(json.dumps([kept, len(batches)]))

    children = fork_ranks(evaluate, [tmp_path / f"{rank}.log" for rank in range(2)])
    assert wait(children, seconds=60) == [0, 0]
    (first, batches), (second, as_many) = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert sorted(first + second) == list(range(count))
    assert batches == as_many  # sharded networks compute each batch together


def test_what_a_mixture_repeats_of_its_own_accord_is_counted():
    work = np.array([[0, 1, 2, 2], [3, 4, 5, -1]])
    assert repeats(work, epoch_size=6).tolist() == [[False, False, False, True], [False] * 4]
    assert not repeats(work, epoch_size=7).any()
