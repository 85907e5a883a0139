"""Training data on a real S3 server on this machine: the same batches, and an error for whatever is wrong."""

import gc
import os
import resource
import shutil
import signal
import time
from pathlib import Path

import pytest
from streaming import Stream

from micro_diffusion.data.format.buckets import BUCKETS, buckets_text
from micro_diffusion.data.stream.loader import build_loader
from tests.data.s3_server import s3_client
from tests.data.stream.test_loader import (
    COUNT,
    change,
    change_hash,
    empty,
    make_latents,
    numbers,
    remove,
    rename_in_index,
    truncate,
)
from tests.forked_training import fork


def slow(*cases: tuple) -> list:
    """Cases that run on request: each value of theirs is in a quick one, too."""
    return [pytest.param(*case, marks=pytest.mark.slow) for case in cases]


@pytest.fixture(scope="module")
def client():
    """A client of a server whose bucket `data` is empty, and which the environment names."""
    with s3_client("data") as made:
        yield made


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch):
    """The library waits for a second before it fetches once more."""
    monkeypatch.setattr("streaming.base.util.sleep", lambda seconds: None)


def upload(client, folder: Path) -> str:
    """The folder's address on the server."""
    name = f"{folder.parent.name}/{folder.name}"
    for file in folder.iterdir():
        client.upload_file(str(file), "data", f"{name}/{file.name}")
    return f"s3://data/{name}"


def load(remote, cache, **changes):
    options = {"resolution": 8, "batch_size": 8, "shuffle": True, **changes}
    return build_loader(path=str(cache), remote=remote, **options)


def load_when_free(remote, cache, patience=20.0):
    """A loader, as soon as the threads and workers of one before it have ended, a moment after it."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        gc.collect()  # an error knows its data set, and that one the error
        try:
            return load(remote, cache)
        except BlockingIOError:
            time.sleep(0.05)
    raise AssertionError(f"{cache} is still in use")


@pytest.mark.parametrize(("compression", "workers"), [(None, 0), ("zstd", 2), *slow((None, 2), ("zstd", 0))])
def test_remote_data_are_the_local_ones(client, tmp_path, compression, workers):
    folder = make_latents(tmp_path / "latents", compression=compression)
    remote = upload(client, folder)
    loader = load(remote, tmp_path / "cache", workers=workers)
    assert numbers(loader) == numbers(build_loader(path=str(folder), resolution=8, batch_size=8, shuffle=True))
    assert sorted(numbers(loader)) == list(range(COUNT))
    assert len(list((tmp_path / "cache").glob("*.mds"))) == len(
        {f.name.split(".zstd")[0] for f in folder.glob("*.mds*")}
    )


def test_a_remote_folder_of_several_shapes_is_the_local_one(client, tmp_path):
    root = tmp_path / "buckets"
    for name, size, start in (("1x1", (4, 4), 0), ("4x3", (2, 6), 20)):
        upload(client, make_latents(root / name, 20, start=start, size=size))
    (root / BUCKETS).write_text(buckets_text({"1x1": 20, "4x3": 20}))
    client.upload_file(str(root / BUCKETS), "data", f"buckets/{BUCKETS}")
    options = {"resolution": 8, "batch_size": 8, "shuffle": True}
    expected = numbers(build_loader(path=str(root), **options))
    for _ in range(2):  # the second time the copies are there
        loader = load("s3://data/buckets", tmp_path / "cache")
        assert numbers(loader) == expected and sorted(expected) == list(range(40))
        del loader
        gc.collect()


def test_the_cache_stays_below_its_limit(client, tmp_path):
    folder = make_latents(tmp_path / "latents", 120, size_limit="4kb")
    limit = 20_000
    assert sum(file.stat().st_size for file in folder.glob("*.mds")) > 2 * limit
    loader = load(upload(client, folder), tmp_path / "cache", cache_limit=str(limit) + "b", predownload=8)
    for _ in range(2):
        assert sorted(numbers(loader)) == list(range(120))
        copies = [file.stat().st_size for file in (tmp_path / "cache").glob("*.mds")]
        assert sum(copies) <= limit + 2 * max(copies)  # three threads fetch, each counts what was there before


@pytest.mark.parametrize(("form", "compression"), [("raw_data", None), ("zip_data", "zstd")])
def test_copies_stay_in_their_folder(client, tmp_path, form, compression):
    """An object of that name is there, which the library would write above the folder of copies."""
    folder = make_latents(tmp_path / "latents", compression=compression)
    shard = sorted(folder.glob("*.mds*"))[3]
    rename_in_index(shard, folder / "index.json", form, f"../../{shard.name}")
    remote, cache = upload(client, folder), tmp_path / "copies" / "cache"
    client.upload_file(str(shard), "data", f"{remote.removeprefix('s3://data/')}/../../{shard.name}")
    with pytest.raises(
        ValueError, match=rf"{remote}/index.json lists the shard '../../{shard.name}', which is no plain"
    ):
        load(remote, cache)
    assert [path for path in cache.parent.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("damage", "compression", "workers"),
    [
        *[(truncate, None, 2), (empty, None, 0), (change, None, 0), (change_hash, None, 0), (change, "zstd", 2)],
        *slow((truncate, None, 0), (empty, None, 2), (change, None, 2), (change_hash, None, 2), (change, "zstd", 0)),
    ],
)
def test_a_damaged_remote_shard_is_fetched_twice_and_named(client, tmp_path, damage, compression, workers, caplog):
    folder = make_latents(tmp_path / "latents", compression=compression)
    shard = sorted(folder.glob("*.mds*"))[3]
    damage(shard, folder / "index.json")
    remote = upload(client, folder)
    said = f"the remote shard {remote}/{shard.name} is damaged, .*; upload that shard again, or make the remote data"
    with pytest.raises(ValueError, match=said):
        list(load(remote, tmp_path / "cache", workers=workers))
    assert not list((tmp_path / "cache").glob(f"{shard.name}*"))
    assert workers or f"of {remote}/{shard.name} is damaged and is fetched once more" in caplog.text


@pytest.mark.parametrize("workers", [0, 2])
def test_a_missing_remote_shard_is_named(client, tmp_path, workers):
    folder = make_latents(tmp_path / "latents")
    shard = sorted(folder.glob("*.mds"))[3]
    remove(shard, folder / "index.json")
    with pytest.raises(ValueError, match=rf"/{shard.name} cannot be fetched \(Object s3://.* not found.*goes on where"):
        list(load(upload(client, folder), tmp_path / "cache", workers=workers))


@pytest.mark.parametrize(
    ("damage", "verify", "workers"),
    [(change, True, 2), (empty, False, 0), *slow((truncate, True, 0), (truncate, False, 2))],
)
def test_a_damaged_copy_is_replaced(client, tmp_path, damage, verify, workers):
    folder, cache = make_latents(tmp_path / "latents"), tmp_path / "cache"
    remote = upload(client, folder)
    shutil.copytree(folder, cache)
    shard = sorted(cache.glob("*.mds"))[3]
    whole = shard.read_bytes()
    damage(shard, cache / "index.json")
    assert sorted(numbers(load(remote, cache, verify=verify, workers=workers))) == list(range(COUNT))
    assert shard.read_bytes() == whole


def test_a_copy_that_was_cut_short_before_it_was_decompressed_is_replaced(client, tmp_path, caplog):
    folder, cache = make_latents(tmp_path / "latents", compression="zstd"), tmp_path / "cache"
    remote = upload(client, folder)
    shutil.copytree(folder, cache)
    shard = sorted(cache.glob("*.mds.zstd"))[3]
    truncate(shard, cache / "index.json")
    assert sorted(numbers(load(remote, cache))) == list(range(COUNT))
    assert f"of {remote}/{shard.name} is damaged and is fetched once more" in caplog.text
    assert not shard.exists() and shard.with_suffix("").exists()


@pytest.mark.parametrize(("compression", "workers"), [(None, 0), ("zstd", 2)])
def test_a_full_disk_is_said_to_be_full(client, tmp_path, compression, workers):
    remote = upload(client, make_latents(tmp_path / "latents", compression=compression))
    loader = load(remote, tmp_path / "cache", workers=workers)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, limits[1]))
    try:
        with pytest.raises(OSError, match=f"no room for a copy of {remote}/.* in {tmp_path}/cache .*; make room there"):
            list(loader)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    del loader
    assert sorted(numbers(load_when_free(remote, tmp_path / "cache"))) == list(range(COUNT))


def test_a_folder_that_cannot_be_written_is_named(client, tmp_path):
    remote = upload(client, make_latents(tmp_path / "latents"))
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=f"no copy of {remote} can be kept in {tmp_path}/file/cache .*; set path to"):
        load(remote, tmp_path / "file" / "cache")


def test_a_worker_that_waits_for_what_another_one_cannot_fetch_ends(client, tmp_path, monkeypatch):
    """All samples are in one shard, and the error comes while the other worker waits."""
    remote = upload(client, make_latents(tmp_path / "latents", size_limit="1mb"))

    def fail(self, *_):
        time.sleep(0.3)
        raise ConnectionError("the network is gone")

    loader = load(remote, tmp_path / "cache", workers=2)
    loader.timeout = 20
    monkeypatch.setattr(Stream, "_download_file", fail)
    with pytest.raises(ValueError, match=r"cannot be fetched \(the network is gone\)"):
        list(loader)


def test_the_network_can_go_in_the_middle(client, tmp_path, monkeypatch):
    loader = load(upload(client, make_latents(tmp_path / "latents")), tmp_path / "cache")
    monkeypatch.setenv("S3_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(ValueError, match=r"cannot be fetched \(Could not connect .*the network .*goes on where it"):
        list(loader)


def test_a_folder_of_copies_belongs_to_one_data_set(client, tmp_path):
    remote, cache = upload(client, make_latents(tmp_path / "latents")), tmp_path / "cache"
    loader = load(remote, cache, workers=2)
    next(iter(loader))  # the workers are there
    with pytest.raises(OSError, match=f"{cache} keeps .*process {os.getpid()} on .*; wait for that job, or set path"):
        load(remote, cache)
    del loader
    assert sorted(numbers(load_when_free(remote, cache))) == list(range(COUNT))


def test_a_killed_job_lets_go_of_its_copies_and_its_leftovers_go(client, tmp_path):
    remote, cache = upload(client, make_latents(tmp_path / "latents")), tmp_path / "cache"
    ready, begun = os.pipe()

    def hold() -> None:
        loader = load(remote, cache, workers=2)
        next(iter(loader))
        os.write(begun, b"!")
        signal.pause()

    job = fork(hold, tmp_path / "log")
    assert os.read(ready, 1)
    try:
        with pytest.raises(OSError, match=f"{cache} keeps .*process {job} on"):
            load(remote, cache)
    finally:
        os.kill(job, signal.SIGKILL)
        os.waitpid(job, 0)
    shard = sorted(cache.glob("*.mds"))[0]
    leftovers = [shard.with_name(f"{shard.name}.{suffix}") for suffix in ("tmp", "6eEF36Fe")]
    for path in (*leftovers, cache / "notes.txt"):
        path.touch()
    assert sorted(numbers(load_when_free(remote, cache))) == list(range(COUNT))
    assert not any(path.exists() for path in leftovers) and (cache / "notes.txt").exists()


def test_confused_places_are_told_apart(client, tmp_path, monkeypatch):
    folder = make_latents(tmp_path / "latents")
    remote = upload(client, folder)
    with pytest.raises(ValueError, match="path is the address s3://.*; set remote to it"):
        build_loader(path=remote, resolution=8, batch_size=8, shuffle=False)
    with pytest.raises(ValueError, match=f"remote is {folder}; set it to an address such as s3://"):
        load(str(folder), tmp_path / "cache")
    other = make_latents(tmp_path / "other", 30)
    with pytest.raises(ValueError, match=f"{other} holds another data set than {remote}"):
        load(remote, other)
    with pytest.raises(ValueError, match="s3://data/nothing/index.json cannot be fetched .*check the address"):
        load("s3://data/nothing", tmp_path / "cache")
    monkeypatch.setenv("S3_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(ValueError, match=r"cannot be fetched \(Could not connect to the endpoint.*the network"):
        load(remote, tmp_path / "cache")
