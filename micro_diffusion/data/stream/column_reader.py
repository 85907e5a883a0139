"""Columns of MDS rows, read from their shard straight into the arrays of a batch.

The streaming library reads whole rows and copies each column out of them; at 166 KB a sample every copy counts.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from streaming.base.format.mds import MDSReader

from micro_diffusion.data.stream.integrity import DamagedShard, shard_path

Columns = dict[str, NDArray[np.uint8] | list[bytearray]]
_BOUNDS = struct.Struct("<II")


class ColumnReader:
    """Reads some columns of the rows of shards that were written with the same columns.

    A shard holds where each row begins and ends; a row holds the sizes of its variable columns, then all columns.

    Args:
        shard: any of them.
        names: of the columns that are wanted, each with the name that it gets here. Others are not read.

    Raises:
        ValueError: when a column is not there.
    """

    def __init__(self, shard: MDSReader, names: Mapping[str, str]) -> None:
        absent = set(names).difference(shard.column_names)
        if absent:
            raise ValueError(f"{shard_path(shard)} lacks the column {min(absent)}; make the data folder again")
        self.columns = [
            (names.get(name), size) for name, size in zip(shard.column_names, shard.column_sizes, strict=True)
        ]
        self._sizes = struct.Struct(f"<{sum(not size for _, size in self.columns)}I")

    def allocate(self, rows: int) -> Columns:
        """Room for the wanted columns: bytes (rows, size) of columns of constant size, else a list of buffers."""
        return {
            name: np.empty((rows, size), np.uint8) if size else [bytearray()] * rows
            for name, size in self.columns
            if name is not None
        }

    def read(self, shard: MDSReader, index: int, row: int, columns: Columns) -> None:
        """Read row `index` of a shard to row `row` of `columns`; neighbouring columns with one call.

        Raises:
            FileNotFoundError: when the shard is not there.
            DamagedShard: when it ends before the row does.
        """
        # a Path takes longer to make than the file to open
        file = os.open(os.path.join(shard.dirname, shard.split, shard.raw_data.basename), os.O_RDONLY)
        try:
            begin, _ = _BOUNDS.unpack(os.pread(file, _BOUNDS.size, 4 * (1 + index)))
            sizes = iter(self._sizes.unpack(os.pread(file, self._sizes.size, begin)))
            position, run = begin + self._sizes.size, []
            for name, constant in self.columns:
                size = constant or next(sizes)
                if name is not None:
                    if not constant:
                        columns[name][row] = bytearray(size)
                    run.append(columns[name][row])
                elif run:
                    position = _fill(file, run, position)
                    run = []
                position += size if name is None else 0
            _fill(file, run, position)
        except (struct.error, EOFError) as error:
            raise DamagedShard(
                f"the shard {shard_path(shard)} ends before its row {index}; make the data folder again"
            ) from error
        finally:
            os.close(file)


def _fill(file: int, buffers: Sequence[Any], position: int) -> int:
    """Fill buffers one after another from a position in a file. Returns the position after them."""
    wanted = sum(map(len, buffers))
    if buffers and os.preadv(file, buffers, position) != wanted:
        raise EOFError
    return position + wanted
