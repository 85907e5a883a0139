"""Training data on a real S3 server on this machine: the same batches, and an error for whatever is wrong."""

from pathlib import Path

import pytest

from micro_diffusion.data.loader import build_loader
from tests.data.s3_server import s3_client
from tests.data.test_loader import COUNT, change, empty, make_latents, numbers, remove, truncate


@pytest.fixture(scope="module")
def client():
    """A client of a server whose bucket `data` is empty, and which the environment names."""
    with s3_client("data") as made:
        yield made


def upload(client, folder: Path) -> str:
    """The folder's address on the server."""
    name = f"{folder.parent.name}/{folder.name}"
    for file in folder.iterdir():
        client.upload_file(str(file), "data", f"{name}/{file.name}")
    return f"s3://data/{name}"


def load(remote, cache, **changes):
    options = {"resolution": 8, "batch_size": 8, "shuffle": True, **changes}
    return build_loader(path=str(cache), remote=remote, **options)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("compression", [None, "zstd"])
def test_remote_data_are_the_local_ones(client, tmp_path, compression, workers):
    folder = make_latents(tmp_path / "latents", compression=compression)
    remote = upload(client, folder)
    loader = load(remote, tmp_path / "cache", workers=workers)
    assert numbers(loader) == numbers(build_loader(path=str(folder), resolution=8, batch_size=8, shuffle=True))
    assert sorted(numbers(loader)) == list(range(COUNT))
    assert len(list((tmp_path / "cache").glob("*.mds"))) == len(
        {f.name.split(".zstd")[0] for f in folder.glob("*.mds*")}
    )


def test_the_cache_stays_below_its_limit(client, tmp_path):
    folder = make_latents(tmp_path / "latents", 400, size_limit="8kb")
    limit = 80_000
    assert sum(file.stat().st_size for file in folder.glob("*.mds")) > 2 * limit
    loader = load(upload(client, folder), tmp_path / "cache", cache_limit=str(limit) + "b", predownload=8)
    for _ in range(2):
        assert sorted(numbers(loader)) == list(range(400))
        assert sum(file.stat().st_size for file in (tmp_path / "cache").iterdir()) <= limit


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", [truncate, empty, change])
def test_a_damaged_remote_shard_is_named(client, tmp_path, damage, workers):
    folder = make_latents(tmp_path / "latents")
    shard = sorted(folder.glob("*.mds"))[3]
    damage(shard, folder / "index.json")
    with pytest.raises((ValueError, OSError), match=shard.name):
        list(load(upload(client, folder), tmp_path / "cache", workers=workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_missing_remote_shard_is_named(client, tmp_path, workers):
    folder = make_latents(tmp_path / "latents")
    shard = sorted(folder.glob("*.mds"))[3]
    remove(shard, folder / "index.json")
    with pytest.raises(ValueError, match=f"{shard.name} cannot be had .*Object s3://.* not found"):
        list(load(upload(client, folder), tmp_path / "cache", workers=workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_compressed_remote_shard_is_named(client, tmp_path, workers):
    folder = make_latents(tmp_path / "latents", compression="zstd")
    shard = sorted(folder.glob("*.zstd"))[3]
    change(shard, folder / "index.json")
    with pytest.raises(ValueError, match=f"{shard.stem}"):
        list(load(upload(client, folder), tmp_path / "cache", workers=workers))


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
