"""Parquet files, read column by column."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from micro_diffusion.data.sources.optional import optional

ROWS = 64  # read at a time, for those that hold images


def find_parquet(path: Path, pattern: str = "*.parquet") -> list[Path]:
    """A parquet file by itself, or those of a folder and the folders below it that fit the pattern, sorted.

    Raises:
        FileNotFoundError: when there is none.
    """
    found = [path] if path.is_file() else sorted(path.rglob(pattern))
    if not found:
        raise FileNotFoundError(f"there is no {pattern} in {path}; set the path to one, or to a folder of them")
    return found


def open_parquet(path: Path, columns: Sequence[str] = ()) -> Any:
    """A file as `pyarrow.parquet.ParquetFile`, which has those columns.

    Raises:
        ImportError: when pyarrow is not installed.
        ValueError: when it is no parquet file, is damaged, or lacks a column.
    """
    parquet = optional("pyarrow.parquet", extra="data")
    try:
        file = parquet.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error
    absent = [column for column in columns if column not in file.schema_arrow.names]
    if absent:
        raise ValueError(f"{path} has no column {' and no '.join(absent)}; it has {', '.join(file.schema_arrow.names)}")
    return file


def holds_lists(path: Path, column: str) -> bool:
    """Whether the cells of a column are lists, of any of the kinds that Arrow has."""
    types = optional("pyarrow", extra="data").types
    lists = (types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_list_view, types.is_large_list_view)
    cells = open_parquet(path, [column]).schema_arrow.field(column).type
    return any(is_kind(cells) for is_kind in lists)


def holds_numbers(path: Path, column: str) -> bool:
    """Whether the cells of a column are whole numbers, or lists of them."""
    cells = open_parquet(path, [column]).schema_arrow.field(column).type
    return optional("pyarrow", extra="data").types.is_integer(cells.value_type if holds_lists(path, column) else cells)


def written_names(path: Path, column: str) -> list[str] | None:
    """The names of the classes that a column numbers, where `datasets` wrote them into the file's schema."""
    try:
        written = json.loads((open_parquet(path, [column]).schema_arrow.metadata or {})[b"huggingface"])
        feature = written["info"]["features"][column]
        names = feature.get("feature", feature)["names"]
    except (KeyError, ValueError, TypeError, AttributeError):
        return None
    return names if isinstance(names, list) else None


def read_rows(path: Path, columns: Sequence[str], *, groups: Sequence[int] | None = None) -> Iterator[tuple[Any, ...]]:
    """Rows of a file as Python values, in order. groups: the numbers of the row groups; None for all.

    Raises:
        ImportError: when pyarrow is not installed.
        ValueError: when the file is damaged, or lacks a column.
    """
    batches = open_parquet(path, columns).iter_batches(ROWS, row_groups=groups, columns=list(columns))
    while True:
        try:
            batch = next(batches, None)
        except (OSError, ValueError) as error:
            raise _damaged(path, error) from error
        if batch is None:
            return
        yield from zip(*(batch.column(column).to_pylist() for column in columns), strict=True)


def read_columns(path: Path, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """The rows of a parquet file, or of all in a folder."""
    for file in find_parquet(path):
        yield from read_rows(file, columns)


def _damaged(path: Path, error: Exception) -> ValueError:
    reason = " ".join(str(error).split())
    return ValueError(f"{path} cannot be read to its end ({reason}); get this file again, or remove it")
