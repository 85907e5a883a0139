"""Checks of MDS folders that the streaming library leaves out: local shards are never verified there."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import xxhash
from streaming import LocalDataset
from streaming.base.format.mds import MDSReader

from micro_diffusion.data.format.buckets import read_buckets
from micro_diffusion.files.json_text import parse_json

INDEX = "index.json"


class DamagedShard(ValueError):
    """A shard whose bytes are not those that its index tells."""


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file of the folder whose index lists it. size: bytes."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class ListedShard:
    """What an index tells of a shard."""

    samples: int
    raw: ListedFile
    compressed: ListedFile | None

    @property
    def files(self) -> list[ListedFile]:
        """Both forms, or the only one."""
        return [file for file in (self.raw, self.compressed) if file is not None]


def read_index(
    path: Path, *, origin: str | None = None, remedy: str = "make the data folder again"
) -> list[ListedShard]:
    """The shards that an index lists, each a file of its own folder: it may come from others.

    Args:
        path: of the index.
        origin: where it comes from, when that is not `path`.
        remedy: what to do when it is of no use.

    Raises:
        ValueError: when it is no index of MDS shards, or names a file by more than a plain name, which could be
            anywhere.
    """
    try:
        entries = parse_json(path.read_text(encoding="utf-8"))["shards"]
        shards = [
            ListedShard(int(entry["samples"]), _file(entry["raw_data"]), entry["zip_data"] and _file(entry["zip_data"]))
            for entry in entries
        ]
        kinds = {entry["format"] for entry in entries} - {"mds"}  # others have further files
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{origin or path} is no index of shards ({error!r}); {remedy}") from error
    if kinds:
        raise ValueError(f"{origin or path} lists shards of the format {min(kinds)!r} instead of 'mds'; {remedy}")
    for name in (file.name for shard in shards for file in shard.files):
        if Path(name).name != name or name in ("", ".."):
            raise ValueError(f"{origin or path} lists the shard {name!r}, which is no plain name of a file; {remedy}")
    return shards


def check_folder(path: Path, *, command: str) -> int:
    """Check that a folder of MDS shards is there and every shard has its size.

    Args:
        path: the folder.
        command: that makes such a folder, with `{path}` for its name.

    Returns:
        The number of samples.

    Raises:
        FileNotFoundError: when the folder, its index or a shard is missing, or it has no samples.
        ValueError: when a shard was cut short, or is longer than it was written, or is none of the folder's own files.
    """
    remedy = f"make it with: {command.format(path=path)}"
    if not path.is_dir():
        raise FileNotFoundError(f"there is no data folder {path}; {remedy}")
    if buckets := read_buckets(path):
        raise FileNotFoundError(
            f"{path} holds a data folder for each of several aspect ratios; name one of them: {', '.join(buckets)}"
        )
    if not (path / INDEX).is_file():
        raise FileNotFoundError(f"the data folder {path} has no {INDEX}, so it is empty or incomplete; {remedy}")
    shards = read_index(path / INDEX, remedy=remedy)
    for listed in (shard.compressed or shard.raw for shard in shards):
        file = path / listed.name
        if not file.is_file():
            raise FileNotFoundError(f"the data folder {path} lacks its shard {file.name}; {remedy}")
        if file.stat().st_size != listed.size:
            raise ValueError(f"{file} has {file.stat().st_size} bytes instead of {listed.size}; {remedy}")
    samples = sum(shard.samples for shard in shards)
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
    return [(folder / shard.raw.name, shard.samples) for shard in read_index(folder / INDEX)]


def shard_names(folder: Path) -> set[str]:
    """Of all files that a folder's index lists."""
    return {file.name for shard in read_index(folder / INDEX) for file in shard.files}


def _file(entry: Mapping[str, Any]) -> ListedFile:
    return ListedFile(str(entry["basename"]), int(entry["bytes"]))
