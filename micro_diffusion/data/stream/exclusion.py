"""Samples that are left out by a list of their keys; the data stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from micro_diffusion.data.stream.column_reader import ColumnReader
from micro_diffusion.data.stream.mixture import Part


class Exclusion:
    """Keys of samples, one a line of a text file.

    Args:
        path: the file, in UTF-8; empty lines count for nothing.

    Raises:
        FileNotFoundError: when there is none.
        ValueError: when it is no text, or names nothing.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            content = Path(path).expanduser().read_text(encoding="utf-8-sig")
        except FileNotFoundError as error:
            raise FileNotFoundError(f"there is no file {path}; set exclude to a list of keys, one a line") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is no UTF-8 text ({error}); write one key a line") from error
        self.keys = frozenset(line for line in map(str.strip, content.splitlines()) if line)
        if not self.keys:
            raise ValueError(f"{path} names no samples; write one key a line, or set exclude to null")

    @property
    def digest(self) -> str:
        """Of the keys, in whatever order the file has them."""
        return xxhash.xxh64_hexdigest("\n".join(sorted(self.keys)))

    def check(self, parts: Sequence[Part]) -> None:
        """Raise ValueError where keys cannot be looked up, or a sample does not come exactly once an epoch."""
        for part in parts:
            if part.remote is not None:
                raise ValueError(f"exclude looks up keys in local shards, but {part.path} has a remote; set it to null")
            if part.proportion is not None or part.repeat not in (None, 1):
                raise ValueError(
                    f"exclude needs samples that come once an epoch, but {part.path} has a proportion or a repeat; "
                    "leave one of them out"
                )

    def kept(self, shards: Sequence[Any]) -> NDArray[np.bool_]:
        """Of all samples of some local shards, in order, which stay; reads every key once.

        Raises:
            ValueError: when not one of the keys is there, or no sample stays.
        """
        stays: list[bool] = []
        for shard in shards:
            reader = ColumnReader(shard, {"key": "key"})
            columns = reader.allocate(1)
            for index in range(shard.samples):
                reader.read(shard, index, 0, columns)
                stays.append(bytes(columns["key"][0]).decode() not in self.keys)
        if all(stays):
            raise ValueError(f"the data have none of the {len(self.keys)} keys of {self.path}; correct the list")
        if not any(stays):
            raise ValueError(f"{self.path} leaves out every sample of the data; shorten the list")
        return np.array(stays)
