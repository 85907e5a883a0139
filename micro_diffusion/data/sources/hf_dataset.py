"""Data sets of the library `datasets` (https://huggingface.co/docs/datasets), from hub or disk, as a source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from micro_diffusion.bounds import PositiveInt
from micro_diffusion.data.image.file_names import files_below
from micro_diffusion.data.sources.optional import optional
from micro_diffusion.data.sources.source import CaptionedImage, Rejected, check_captions, kinds_of
from micro_diffusion.data.sources.table import read_cells

PART = 64


@dataclass(frozen=True, kw_only=True)
class HfDataset:
    """A data set with a column of images and one of captions.

    Args:
        path: its name on the hub, a folder that `datasets` can load, or one that `save_to_disk` has written.
        split: such as "train", or "train[:1%]"; ignored for a saved data set without splits.
        name: of its configuration, where it has several.
        image: column of the images.
        caption: column of the captions, each a text or a list of texts; or several columns, each a kind of caption.
        key: column that names the images, each differently; None names them by split and number.
        captions: of a list, how many are taken, from its first.
        class_names: of the classes that a column of captions numbers, from 0 on; None for those of its `ClassLabel`.

    Raises:
        ImportError: when the library is not installed.
        ValueError: when there is no such data set, split or column.
    """

    path: str
    split: str = "train"
    name: str | None = None
    image: str = "image"
    caption: str | Sequence[str] = "caption"
    key: str | None = None
    captions: PositiveInt = 1
    class_names: Sequence[str] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "caption", kinds_of(self.caption))  # hashable, for `_load`
        object.__setattr__(self, "class_names", None if self.class_names is None else tuple(self.class_names))
        absent = [name for name in self._columns if name not in _load(self).column_names]
        if absent:
            raise ValueError(
                f"{self.path} has no column {' and no '.join(absent)}; it has {', '.join(_load(self).column_names)}"
            )
        datasets, features = optional("datasets", extra="data"), _load(self).features
        single = [name for name in self.caption if isinstance(features[name], datasets.Value | datasets.ClassLabel)]
        check_captions(self.captions, single=[f"the column {name}" for name in single])
        if self.class_names is not None and not any(_is_numbered(features[name]) for name in self.caption):
            raise ValueError(
                f"class_names are given, but {' and '.join(self.caption)} of {self.path} holds no whole numbers; set "
                "source.caption to the column of classes, or leave source.class_names out"
            )

    @property
    def _columns(self) -> list[str]:
        return [self.image, *kinds_of(self.caption), *([] if self.key is None else [self.key])]

    def __len__(self) -> int:
        return len(_load(self))

    def parts(self) -> Sequence[range]:
        """Ranges of rows."""
        return [range(start, min(start + PART, len(self))) for start in range(0, len(self), PART)]

    def files_of(self, part: range) -> Iterable[Path]:
        """All files of a folder; none of what is on the hub."""
        return _folder_files(self.path)

    def read(self, part: range) -> Iterator[CaptionedImage | Rejected]:
        """The rows of a range."""
        datasets = optional("datasets", extra="data")
        rows = _load(self).select_columns(self._columns)
        if isinstance(rows.features[self.image], datasets.Image):
            rows = rows.cast_column(self.image, datasets.Image(decode=False))
        folder = _folder(self.path)
        root = folder if folder.is_dir() else Path(datasets.config.HF_CACHE_HOME)
        kinds = kinds_of(self.caption)
        names = [self.class_names or _label(rows.features[name]) for name in kinds]
        for number in part:
            row = rows[number]
            key = f"{self.split}-{number}" if self.key is None else str(row[self.key])
            captions = [row[name] for name in kinds]
            yield read_cells(row[self.image], captions, key, root=root, count=self.captions, names=names)


def _folder(path: str) -> Path:
    """An absolute path, from which the library makes those of the images in a folder."""
    return Path(path).expanduser().absolute()


@lru_cache(maxsize=2)
def _folder_files(path: str) -> tuple[Path, ...]:
    folder = _folder(path)
    return tuple(sorted(files_below(folder))) if folder.is_dir() else ()


def _label(feature: Any) -> list[str] | None:
    """The names of the classes that a column numbers; None for any other column."""
    return getattr(getattr(feature, "feature", feature), "names", None)


def _is_numbered(feature: Any) -> bool:
    """Whether the cells of a column are whole numbers, or lists of them."""
    feature = getattr(feature, "feature", feature)
    return _label(feature) is not None or "int" in str(getattr(feature, "dtype", ""))


@lru_cache(maxsize=2)
def _load(source: HfDataset) -> Any:
    """The data set of a source, memory-mapped; once a process."""
    datasets = optional("datasets", extra="data")
    path = _folder(source.path)
    try:
        if (path / "state.json").is_file():
            return datasets.load_from_disk(str(path))
        if (path / "dataset_dict.json").is_file():
            return datasets.load_from_disk(str(path))[source.split]
        return datasets.load_dataset(str(path) if path.is_dir() else source.path, source.name, split=source.split)
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(
            f"the data set {source.path}, split {source.split}, cannot be loaded ({' '.join(str(error).split())}); "
            "set source.path to its name on the hub or a folder, and source.split to one of its splits"
        ) from error
