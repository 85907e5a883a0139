"""Parquet files with a column of images and one of captions, as a source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from micro_diffusion.bounds import PositiveInt
from micro_diffusion.data.sources.parquet_files import (
    find_parquet,
    holds_lists,
    holds_numbers,
    open_parquet,
    read_rows,
    written_names,
)
from micro_diffusion.data.sources.source import CaptionedImage, Rejected, check_captions, kinds_of
from micro_diffusion.data.sources.table import read_cells


class RowGroup(NamedTuple):
    """Rows of a parquet file that are read together. name: of the file; first: number of the first row in the file."""

    name: str
    group: int
    first: int
    rows: int


@dataclass(frozen=True, kw_only=True)
class Parquet:
    """Rows of parquet files; each row group is a part.

    Args:
        path: a file, or a folder that holds some, at any depth.
        files: pattern of their names, such as "train-*.parquet".
        image: column of the images: the content of image files, as bytes or as the hub's {bytes, path}; or their
            paths, relative to the folder.
        caption: column of the captions, each a text or a list of texts; or several columns, each a kind of caption.
        key: column that names the images, each differently; None names them by file and number of the row.
        captions: of a list, how many are taken, from its first.
        class_names: of the classes that a column of captions numbers, from 0 on; None for those that the library
            `datasets` wrote into the file.

    Raises:
        FileNotFoundError: when there is no parquet file.
        ImportError: when pyarrow is not installed.
        ValueError: when a column is not there, or a file is damaged.
    """

    path: str
    files: str = "*.parquet"
    image: str = "image"
    caption: str | Sequence[str] = "caption"
    key: str | None = None
    captions: PositiveInt = 1
    class_names: Sequence[str] | None = None

    def __post_init__(self) -> None:
        _ = self._groups
        first = find_parquet(Path(self.path).expanduser(), self.files)[0]
        single = [f"the column {name}" for name in kinds_of(self.caption) if not holds_lists(first, name)]
        check_captions(self.captions, single=single)
        if self.class_names is not None and not any(holds_numbers(first, name) for name in kinds_of(self.caption)):
            raise ValueError(
                f"class_names are given, but {' and '.join(kinds_of(self.caption))} of {first} holds no whole numbers; "
                "set source.caption to the column of classes, or leave source.class_names out"
            )

    @property
    def _root(self) -> Path:
        path = Path(self.path).expanduser()
        return path.parent if path.is_file() else path

    @property
    def _columns(self) -> list[str]:
        return [self.image, *kinds_of(self.caption), *([] if self.key is None else [self.key])]

    @cached_property
    def _groups(self) -> list[RowGroup]:
        groups = []
        for path in find_parquet(Path(self.path).expanduser(), self.files):
            metadata = open_parquet(path, self._columns).metadata
            first, name = 0, path.relative_to(self._root).as_posix()
            for number in range(metadata.num_row_groups):
                groups.append(RowGroup(name, number, first, metadata.row_group(number).num_rows))
                first += groups[-1].rows
        return groups

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __len__(self) -> int:
        return sum(group.rows for group in self._groups)

    def parts(self) -> Sequence[RowGroup]:
        """The row groups of all files, in the order of their names."""
        return self._groups

    def files_of(self, part: RowGroup) -> Iterable[Path]:
        """The parquet file; images that it names by their paths are not looked at."""
        return [self._root / part.name]

    def read(self, part: RowGroup) -> Iterator[CaptionedImage | Rejected]:
        """The rows of a group."""
        rows = read_rows(self._root / part.name, self._columns, groups=[part.group])
        kinds = kinds_of(self.caption)
        names = [self.class_names or written_names(self._root / part.name, name) for name in kinds]
        for number, (image, *cells) in enumerate(rows, part.first):
            name = f"{part.name.removesuffix('.parquet')}/{number}" if self.key is None else str(cells[-1])
            captions = cells[: len(kinds)]
            yield read_cells(image, captions, name, root=self._root, count=self.captions, names=names)
