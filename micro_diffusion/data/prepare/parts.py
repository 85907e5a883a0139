"""Parts of a data set, each written by one process and kept from the moment it is whole.

A part is its shards, named `shard.PART.SHARD.mds`, and last its record `parts/PART.json`, without which it does not
count.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streaming import MDSWriter

from micro_diffusion.data.prepare.storage import Storage, scratch_folder
from micro_diffusion.data.sources.source import Rejected
from micro_diffusion.data.stream.integrity import INDEX

HASHES = ["xxh64"]
PARTS = "parts"


@dataclass(frozen=True)
class PartRecord:
    """What is known of a whole part.

    Attributes:
        samples: number of rows.
        shards: their entries in the index, in order.
        rejected: images that were left out.
        statistics: what the writer adds; JSON values.
        made_from: digest of what it was made from, "" where that was not looked at.
    """

    samples: int
    shards: Sequence[Mapping[str, Any]]
    rejected: Sequence[Rejected]
    statistics: Mapping[str, Any]
    made_from: str = ""

    @classmethod
    def read(cls, storage: Storage, number: int) -> PartRecord:
        """The record of a whole part."""
        text = storage.read(record_name(number))
        if text is None:
            raise FileNotFoundError(f"{record_name(number)} has vanished from {storage}; give the same command again")
        content = json.loads(text)
        return cls(**{**content, "rejected": [Rejected(*item) for item in content["rejected"]]})


def record_name(number: int) -> str:
    """Name of a part's record."""
    return f"{PARTS}/{number:05}.json"


def shard_names(storage: Storage, number: int) -> list[str]:
    """Names of the shards of a part that are there."""
    return [name for name in storage.names("") if name.startswith(f"shard.{number:05}.")]


def whole_parts(storage: Storage) -> set[int]:
    """Numbers of the parts that are whole."""
    return {int(Path(name).stem) for name in storage.names(PARTS)}


@dataclass
class Part:
    """A part on its way: give it rows and rejected images in order, and statistics if there are some."""

    writer: MDSWriter
    samples: int = 0
    rejected: list[Rejected] = field(default_factory=list)
    statistics: dict[str, Any] = field(default_factory=dict)
    made_from: str = ""

    def write(self, row: Mapping[str, Any] | Rejected) -> None:
        """Add a row, or list an image as rejected."""
        if isinstance(row, Rejected):
            self.rejected.append(row)
        else:
            self.writer.write(dict(row))
            self.samples += 1


@contextmanager
def writing(storage: Storage, number: int, *, columns: Mapping[str, str], size_limit: str) -> Iterator[Part]:
    """A new part, which counts when the block has ended without an exception, and leaves nothing otherwise.

    Args:
        storage: of the data set.
        number: of the part, which fixes its place in the data set.
        columns: of the shards, in the terms of `MDSWriter`.
        size_limit: of a shard file, such as "64mb".

    Raises:
        OSError: when the disk is full, in a sentence that says so.
    """
    with scratch_folder(storage) as scratch:
        writer = MDSWriter(out=str(scratch / "mds"), columns=dict(columns), hashes=HASHES, size_limit=size_limit)
        part = Part(writer)
        yield part
        writer.finish()
        shards = _numbered(scratch, number)
        record = PartRecord(part.samples, shards, part.rejected, part.statistics, part.made_from)
        (scratch / PARTS).mkdir()
        (scratch / record_name(number)).write_text(json.dumps(vars(record), ensure_ascii=False), encoding="utf-8")
        storage.publish(scratch, [*(shard["raw_data"]["basename"] for shard in shards), record_name(number)])


def _numbered(scratch: Path, number: int) -> list[dict[str, Any]]:
    """Move a part's shards to the names that they keep; their entries for the index."""
    shards = json.loads((scratch / "mds" / INDEX).read_text(encoding="utf-8"))["shards"]
    for place, shard in enumerate(shards):
        name = f"shard.{number:05}.{place:05}.mds"
        (scratch / "mds" / shard["raw_data"]["basename"]).rename(scratch / name)
        shard["raw_data"]["basename"] = name
    return shards
