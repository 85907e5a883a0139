"""Checks of MDS folders that the streaming library leaves out: local shards are never verified there."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import xxhash
from streaming import LocalDataset
from streaming.base.format.mds import MDSReader

from micro_diffusion.json_text import parse_json

INDEX = "index.json"


class DamagedShard(ValueError):
    """A shard whose bytes are not those that its index tells."""


def check_folder(path: Path, *, command: str) -> int:
    """Check that a folder of MDS shards is there and every shard has its size.

    Args:
        path: the folder.
        command: that makes such a folder, with `{path}` for its name.

    Returns:
        The number of samples.

    Raises:
        FileNotFoundError: when the folder, its index or a shard is missing, or it has no samples.
        ValueError: when a shard was cut short, or is longer than it was written.
    """
    remedy = f"make it with: {command.format(path=path)}"
    if not path.is_dir():
        raise FileNotFoundError(f"there is no data folder {path}; {remedy}")
    if not (path / INDEX).is_file():
        raise FileNotFoundError(f"the data folder {path} has no {INDEX}, so it is empty or incomplete; {remedy}")
    try:
        shards = parse_json((path / INDEX).read_text(encoding="utf-8"))["shards"]
        files = [info["zip_data"] or info["raw_data"] for info in shards]
        samples = sum(info["samples"] for info in shards)
        names = [(path / file["basename"], int(file["bytes"])) for file in files]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path / INDEX} is no index of shards ({error!r}); {remedy}") from error
    for shard, size in names:
        if not shard.is_file():
            raise FileNotFoundError(f"the data folder {path} lacks its shard {shard.name}; {remedy}")
        if shard.stat().st_size != size:
            raise ValueError(f"{shard} has {shard.stat().st_size} bytes instead of {size}; {remedy}")
    if not samples:
        raise FileNotFoundError(f"the data folder {path} holds no samples; {remedy}")
    return samples


def check_shard(shard: MDSReader, *, hashes: bool = True) -> None:
    """Compare an uncompressed shard's size with its index, and its bytes with the hashes there.

    Raises:
        DamagedShard: when they differ.
    """
    path = shard_path(shard)
    size = path.stat().st_size
    if size != shard.raw_data.bytes:
        raise DamagedShard(f"{path} has {size} bytes instead of {shard.raw_data.bytes}; make the data folder again")
    if hashes:
        _check_bytes(path, shard.raw_data.hashes)


def shard_path(shard: MDSReader) -> Path:
    """Where a shard's uncompressed form is."""
    return Path(shard.dirname, shard.split, shard.raw_data.basename)


def check_hashes(path: Path) -> None:
    """Compare the bytes of every shard of a folder, compressed or not, with its index, which reads the whole folder.

    Raises:
        ValueError: when they differ, or the index holds no hash of them.
    """
    for reader in LocalDataset(str(path)).shards:
        shard = cast(MDSReader, reader)
        forms = [form for form in (shard.raw_data, shard.zip_data) if form is not None]
        for form in forms:
            file = shard_path(shard).with_name(form.basename)
            if not file.is_file():  # the other form is there, or the folder would not be whole
                continue
            if not form.hashes:
                raise ValueError(f"the index of {path} has no hash of {file.name}; write the data with hashes=[xxh64]")
            _check_bytes(file, form.hashes)


def _check_bytes(path: Path, hashes: Mapping[str, str]) -> None:
    for algorithm, expected in hashes.items():
        if _file_hash(path, algorithm) != expected:
            raise DamagedShard(f"the bytes of {path} have changed since it was written; make the data folder again")


def _file_hash(path: Path, algorithm: str) -> str:
    """Of a file's bytes, read in pieces that fit into the processor's cache."""
    digest = getattr(xxhash, algorithm)() if algorithm in xxhash.algorithms_available else hashlib.new(algorithm)
    piece = memoryview(bytearray(1 << 18))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(piece):
            digest.update(piece[:count])
    return digest.hexdigest()


def shard_files(folder: Path) -> list[tuple[Path, int]]:
    """The uncompressed shards of a folder, each with its number of samples."""
    shards = parse_json((folder / INDEX).read_text(encoding="utf-8"))["shards"]
    return [(folder / info["raw_data"]["basename"], info["samples"]) for info in shards]


def shard_names(folder: Path) -> set[str]:
    """Of all files that a folder's index lists."""
    shards = parse_json((folder / INDEX).read_text(encoding="utf-8"))["shards"]
    return {file["basename"] for info in shards for file in (info["raw_data"], info["zip_data"]) if file}
