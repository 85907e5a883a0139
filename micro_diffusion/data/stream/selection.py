"""Samples that are left out by a list of their keys, or for lack of quality; the data stay as they are."""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from micro_diffusion.data.sources.parquet_files import read_columns
from micro_diffusion.data.stream.column_reader import ColumnReader
from micro_diffusion.data.stream.mixture import Part

log = logging.getLogger(__name__)

Hashes = NDArray[np.uint64]
"""Of keys, which take 8 bytes each in this form however many there are."""


class Selection:
    """Which samples stay in every epoch.

    Args:
        exclude: text file in UTF-8 of the keys of samples that are left out, one a line; empty lines count for nothing.
        scores: table with a column `key` and further columns of numbers: a CSV file with a header, a parquet file, or a
            folder of these.
        minimum_scores: by such columns the numbers that a sample needs in all of them; without a row or a number it is
            left out.

    Raises:
        FileNotFoundError: when a file is not there.
        ValueError: when it is of no use, or one of scores and minimum_scores is given without the other.
    """

    def __init__(
        self,
        *,
        exclude: str | None = None,
        scores: str | None = None,
        minimum_scores: Mapping[str, float] | None = None,
    ) -> None:
        if (scores is None) != (not minimum_scores):
            raise ValueError(
                f"scores is {scores} and minimum_scores is {minimum_scores}; set both, as in scores=scores.csv "
                "minimum_scores={aesthetic:5}, or neither"
            )
        self.exclude, self.scores = exclude, scores
        self.identity = ""
        if exclude is not None:
            keys = _listed_keys(exclude)
            self._excluded = _hashes(keys)
            self.identity += f" without {xxhash.xxh64_hexdigest(chr(10).join(sorted(keys)))}"
        if scores is not None and minimum_scores:
            self._known, good = _scored(scores, dict(minimum_scores))
            self._good = self._known[good]
            self.identity += f" with {xxhash.xxh64_hexdigest(np.sort(self._good).tobytes())}"

    def __bool__(self) -> bool:
        return self.exclude is not None or self.scores is not None

    def check(self, parts: Sequence[Part]) -> None:
        """Raise ValueError where keys cannot be looked up, or samples do not come equally often in an epoch."""
        name = "scores" if self.exclude is None else "exclude"
        for part in parts:
            if part.remote is not None:
                raise ValueError(f"{name} looks up keys in local shards, but {part.path} has a remote; set it to null")
            if part.proportion is not None or (part.repeat or 1) % 1:
                raise ValueError(
                    f"{name} needs samples that come equally often in an epoch, but {part.path} has a proportion, or a "
                    "repeat that is no whole number; leave one of them out"
                )

    def kept(self, shards: Sequence[Any]) -> NDArray[np.bool_]:
        """Of all samples of some local shards, in order, which stay; reads every key once.

        Raises:
            ValueError: when not one of the keys is there, or no sample stays.
        """
        keys = _hashes(_keys(shards))
        stays = np.ones(len(keys), bool)
        if self.exclude is not None:
            stays &= ~self._found(keys, self._excluded, self.exclude)
        if self.scores is not None:
            scored = self._found(keys, self._known, self.scores)
            if count := int(np.count_nonzero(~scored)):
                log.warning("%d of %d samples have no scores in %s and are left out", count, len(keys), self.scores)
            stays &= np.isin(keys, self._good)
        if not stays.any():
            given = " and ".join(filter(None, (self.exclude, self.scores)))
            raise ValueError(f"{given} leaves out every sample of the data; shorten the list, or lower minimum_scores")
        return stays

    def _found(self, keys: Hashes, wanted: Hashes, path: str) -> NDArray[np.bool_]:
        found = np.isin(keys, wanted)
        if not found.any():
            raise ValueError(f"the data have none of the {len(wanted)} keys of {path}; correct the list")
        return found


def _keys(shards: Sequence[Any]) -> Iterator[str]:
    for shard in shards:
        reader = ColumnReader(shard, {"key": "key"})
        columns = reader.allocate(1)
        for index in range(shard.samples):
            reader.read(shard, index, 0, columns)
            yield bytes(columns["key"][0]).decode()


def _hashes(keys: Iterable[str]) -> Hashes:
    return np.fromiter((xxhash.xxh64_intdigest(key) for key in keys), np.uint64)


def _listed_keys(path: str) -> set[str]:
    try:
        content = Path(path).expanduser().read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no file {path}; set exclude to a list of keys, one a line") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text ({error}); write one key a line") from error
    keys = {line for line in map(str.strip, content.splitlines()) if line}
    if not keys:
        raise ValueError(f"{path} names no samples; write one key a line, or set exclude to null")
    return keys


def _scored(path: str, minimum: Mapping[str, float]) -> tuple[Hashes, NDArray[np.bool_]]:
    """The keys of a table, and which of them reach the minimum in every column."""
    place, columns = Path(path).expanduser(), ["key", *minimum]
    if not place.exists():
        raise FileNotFoundError(f"there is no {path}; set scores to a table with the columns {', '.join(columns)}")
    rows = _csv_rows(place, columns) if place.suffix.lower() == ".csv" else read_columns(place, columns)
    keys, good = [], []
    for key, *values in rows:
        keys.append(str(key))
        numbers = [_number(path, *cell) for cell in zip(minimum, values, strict=True)]
        good.append(all(number >= least for number, least in zip(numbers, minimum.values(), strict=True)))
    if not keys:
        raise ValueError(f"{path} has no rows; set scores to a table with the columns {', '.join(columns)}")
    return _hashes(keys), np.array(good)


def _csv_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, strict=True)
            if absent := [column for column in columns if column not in (rows.fieldnames or ())]:
                held = ", ".join(rows.fieldnames or ()) or "none"
                raise ValueError(f"{path} has no column {absent[0]}; it has {held}")
            yield from (tuple(row[column] for column in columns) for row in rows)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error}); write a table in UTF-8 with a header") from error


def _number(path: str, column: str, cell: Any) -> float:
    """A cell's number; one that is not there is below every other."""
    try:
        value = -math.inf if cell in (None, "") else float(cell)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} has {cell!r} in the column {column}; write numbers there") from error
    return -math.inf if math.isnan(value) else value
