"""Latents and pooled captions that another program has made, in the two forms of transformer latent diffusion.

Its published form is a pair of `.npy` files; its data script writes one HDF5 file and a table of captions.
Legend: N images, C latent channels, h w latent cells, D caption width.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from micro_diffusion.data.format.quantisation import Floats, from_uint8
from micro_diffusion.data.sources.optional import optional

QUANTISED_LIMIT = 20.0
"""What 255 stands for where that program has stored latents in 8 bits."""


class Pairs(NamedTuple):
    """latents: (B, C, h, w) before any scaling. features: (B, D). captions: B texts, empty where none are known."""

    latents: Floats
    features: Floats
    captions: list[str]


class Shape(NamedTuple):
    """images: N. latent: (C, h, w). caption_dim: D."""

    images: int
    latent: tuple[int, int, int]
    caption_dim: int


@runtime_checkable
class LatentPairs(Protocol):
    """Pairs that are read in order, a few at a time; a frozen dataclass, whose fields are recorded with the result."""

    def shape(self) -> Shape:
        """Looks at the files without reading them whole; a ValueError where they do not fit one another."""
        ...

    def read(self, batch_size: int) -> Iterator[Pairs]:
        """All of them."""
        ...


@dataclass(frozen=True, kw_only=True)
class NumpyPairs:
    """Two `.npy` files, read by memory map, such as mj_latents.npy and mj_text_emb.npy.

    Args:
        latents: file of (N, C, h, w) floats, or bytes from 0 for -20 to 255 for 20.
        features: file of (N, D) floats.
        captions: CSV table with the captions in the same order, or None.
        caption_column: its column.
    """

    latents: str
    features: str
    captions: str | None = None
    caption_column: str = "text"

    def shape(self) -> Shape:
        """As the files' headers say."""
        return _checked(_memory_map(self.latents), _memory_map(self.features), self.latents, self.features, self)

    def read(self, batch_size: int) -> Iterator[Pairs]:
        """In order."""
        yield from _batches(_memory_map(self.latents), _memory_map(self.features), self, batch_size)


@dataclass(frozen=True, kw_only=True)
class HDF5Pairs:
    """An HDF5 file with `image_latents` and `text_encodings`, and the table metadata.csv beside it.

    Args:
        path: the file.
        captions: CSV table with the captions in the same order, or None.
        caption_column: its column.

    Raises:
        ImportError: when h5py is not installed.
    """

    path: str
    captions: str | None = None
    caption_column: str = "text"

    latents_name = "image_latents"
    features_name = "text_encodings"

    def shape(self) -> Shape:
        """As the file's header says."""
        with self._opened() as (latents, features):
            of_file = f"of {self.path}"
            return _checked(
                latents, features, f"{self.latents_name} {of_file}", f"{self.features_name} {of_file}", self
            )

    def read(self, batch_size: int) -> Iterator[Pairs]:
        """In order."""
        with self._opened() as (latents, features):
            yield from _batches(latents, features, self, batch_size)

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, Any]]:
        h5py = optional("h5py", extra="hdf5")
        path = _existing(self.path)
        try:
            file = h5py.File(path, "r")
        except OSError as error:
            raise ValueError(
                f"{path} cannot be read as HDF5 ({' '.join(str(error).split())}); copy it again"
            ) from error
        with file:
            absent = [name for name in (self.latents_name, self.features_name) if name not in file]
            if absent:
                held = ", ".join(file) or "nothing"
                raise ValueError(f"{path} has no {' and no '.join(absent)}, but {held}; give a file with both")
            yield file[self.latents_name], file[self.features_name]


def _existing(path: str) -> Path:
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}; correct its path")
    return file


def _memory_map(path: str) -> NDArray[Any]:
    file = _existing(path)
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{file} cannot be read as .npy ({' '.join(str(error).split())}); copy it again") from error


def _checked(latents: Any, features: Any, latents_name: str, features_name: str, table: Any) -> Shape:
    """The shape of both, which fit one another and the table of captions."""
    if latents.ndim != 4 or features.ndim != 2:
        raise ValueError(
            f"{latents_name} has the shape {latents.shape} and {features_name} {features.shape}; give latents "
            "(images, channels, height, width) and pooled captions (images, width)"
        )
    counts = {latents_name: len(latents), features_name: len(features)}
    if table.captions is not None:
        counts[table.captions] = sum(1 for _ in _captions(table))
    if len(set(counts.values())) > 1:
        lengths = ", ".join(f"{count} in {name}" for name, count in counts.items())
        raise ValueError(f"the files are of different lengths ({lengths}); give files that were made together")
    return Shape(len(latents), latents.shape[1:], features.shape[1])


def _captions(table: Any) -> Iterator[str]:
    """The texts of a column, row by row."""
    path = _existing(table.captions)
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        if table.caption_column not in (rows.fieldnames or ()):
            held = ", ".join(rows.fieldnames or ()) or "none"
            raise ValueError(f"{path} has no column {table.caption_column}; set caption_column to one of: {held}")
        for row in rows:
            yield row[table.caption_column] or ""


def _batches(latents: Any, features: Any, table: Any, batch_size: int) -> Iterator[Pairs]:
    captions = iter(_captions(table)) if table.captions is not None else None
    for start in range(0, len(latents), batch_size):
        rows = slice(start, min(start + batch_size, len(latents)))
        count = rows.stop - rows.start
        stored = np.asarray(latents[rows])
        plain = from_uint8(stored, limit=QUANTISED_LIMIT) if stored.dtype == np.uint8 else stored.astype(np.float32)
        texts = [""] * count if captions is None else list(islice(captions, count))
        yield Pairs(plain, np.array(features[rows], dtype=np.float32), texts)
