"""What a data set was made from: names, sizes and times of the files that its source reads, or hashes of shards."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import xxhash

from micro_diffusion.data.sources.source import Source
from micro_diffusion.files.json_text import parse_json

FILES = "source_files.json"
"""Beside the shards: the files that they were made from."""
LISTED = 100_000
"""Files that are listed there by name; of more, only how many they were."""
SHOWN = 3

State = tuple[int, int]
"""Size in bytes, and time of the last change in nanoseconds; of a shard a number that stands for its hashes."""


@dataclass(frozen=True)
class Fingerprint:
    """The state of the files that a source reads, and of what its lists say.

    A file is taken for the same when name, size and time are, as `make` and `rsync` do; contents are not read.

    Attributes:
        files: states by path.
        parts: a digest of each part of the data set that is to be made.
    """

    files: Mapping[str, State]
    parts: Sequence[str]

    @classmethod
    def of(cls, source: Source, parts: Iterable[Sequence[Any]]) -> Fingerprint:
        """Look at the files of a source. parts: for each part of the data set, those of the source that go into it."""
        files: dict[str, State] = {}
        digests = []
        read = getattr(source, "files_of", _none)  # a source of somebody else may lack it
        for source_parts in parts:
            digest = xxhash.xxh64()
            for part in source_parts:
                digest.update(json.dumps(part, default=_plain))
                for path in read(part):
                    name = str(path)
                    if name not in files:
                        files[name] = _state(path)
                    digest.update(json.dumps([name, *files[name]]))
            digests.append(digest.hexdigest())
        return cls(files, digests)

    @classmethod
    def of_shards(cls, index: Path, parts: Iterable[range]) -> Fingerprint:
        """Of the shards of MDS images that an index lists. parts: for each part of the data set, the rows it is of."""
        shards = {}
        for entry in parse_json(index.read_text(encoding="utf-8"))["shards"]:
            data = entry["raw_data"]
            state = (int(data["bytes"]), int(xxhash.xxh64_hexdigest(json.dumps(data["hashes"], sort_keys=True)), 16))
            shards[data["basename"]] = (int(entry["samples"]), state)
        digests = []
        for rows in parts:
            digest, first = xxhash.xxh64(), 0
            for samples, state in shards.values():
                if first < rows.stop and rows.start < first + samples:
                    digest.update(json.dumps([*state, rows.start - first, rows.stop - first]))
                first += samples
            digests.append(digest.hexdigest())
        return cls({name: state for name, (_, state) in shards.items()}, digests)

    @property
    def digest(self) -> str:
        """Of everything."""
        return xxhash.xxh64_hexdigest("".join(self.parts))

    def text(self) -> str:
        """For the file FILES."""
        return json.dumps({"count": len(self.files), "files": self.files if len(self.files) <= LISTED else None})

    def changes_since(self, text: str | None) -> str:
        """What has changed since that file was written, in a few words."""
        recorded = parse_json(text) if text else {}
        before = recorded.get("files")
        if before is None:
            return f"{recorded.get('count', 'some')} files then, {len(self.files)} now"
        kinds = {
            "changed": [name for name, state in self.files.items() if tuple(before.get(name, state)) != state],
            "new": [name for name in self.files if name not in before],
            "gone": [name for name in before if name not in self.files],
        }
        said = "; ".join(f"{len(names)} {kind}: {_some(names)}" for kind, names in kinds.items() if names)
        return said or "what its lists say, or the order of its images"


def _none(part: Any) -> Iterable[Path]:
    return ()


def _plain(value: Any) -> str:
    """A range by its numbers; of other objects only the kind, since their words may hold an address in memory."""
    return repr(value) if isinstance(value, range) else type(value).__name__


def _state(path: Path) -> State:
    """(-1, 0) for a file that is not there."""
    try:
        state = path.stat()
    except (OSError, ValueError):  # the latter for a NUL in a name
        return (-1, 0)
    return (state.st_size, state.st_mtime_ns)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(Path(name).name.encode(errors="replace").decode() for name in islice(names, SHOWN))
    return f"{shown}, …" if len(names) > SHOWN else shown
