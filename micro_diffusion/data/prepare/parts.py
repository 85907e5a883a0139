"""Parts of a data set, each written by one process and kept from the moment it is whole.

A part is its shards, named `shard.PART.SHARD.mds`, and last its record `parts/PART.json`, without which it does not
count.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from streaming import MDSWriter

from micro_diffusion.data.prepare.storage import LocalStorage, Storage, linked, scratch_folder
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

    def write(self, folder: Path, number: int) -> None:
        """Write it as the record of the part of a number, below a folder."""
        path = folder / record_name(number)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(vars(self), ensure_ascii=False), encoding="utf-8")

    def publish(self, storage: Storage, scratch: Path, number: int) -> None:
        """Bring the part's shards from a scratch folder to their data set, and the record last."""
        self.write(scratch, number)
        storage.publish(scratch, [*(shard["raw_data"]["basename"] for shard in self.shards), record_name(number)])


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
        written = json.loads((scratch / "mds" / INDEX).read_text(encoding="utf-8"))["shards"]
        shards = _numbered(written, number)
        for before, after in zip(written, shards, strict=True):
            (scratch / "mds" / before["raw_data"]["basename"]).rename(scratch / after["raw_data"]["basename"])
        record = PartRecord(part.samples, shards, part.rejected, part.statistics, part.made_from)
        record.publish(storage, scratch, number)


def take_over(record: PartRecord, number: int, *, origin: LocalStorage, storage: LocalStorage) -> None:
    """Make a whole part of another local data set the part of this number; its bytes are on the disk once."""
    taken = replace(record, shards=_numbered(record.shards, number))
    with scratch_folder(storage) as scratch:
        for before, after in zip(record.shards, taken.shards, strict=True):
            linked(origin.root / before["raw_data"]["basename"], scratch / after["raw_data"]["basename"])
        taken.publish(storage, scratch, number)


def _numbered(shards: Sequence[Mapping[str, Any]], number: int) -> list[dict[str, Any]]:
    """Entries of the index for shards of a part, with the names that they have there."""
    return [
        {**shard, "raw_data": {**shard["raw_data"], "basename": f"shard.{number:05}.{place:05}.mds"}}
        for place, shard in enumerate(shards)
    ]
