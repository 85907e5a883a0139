"""Sources whose parts are archives, as their publishers ship them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from micro_diffusion.data.sources.archives import estimate_images
from micro_diffusion.data.sources.caption_index import CaptionIndex
from micro_diffusion.data.sources.source import CaptionedImage, Rejected


@dataclass(frozen=True, kw_only=True)
class ArchiveSource(ABC):
    """Images in archives below a folder. Each archive is a part, by its name relative to the folder.

    Args:
        path: the folder, or one archive.
    """

    path: str

    @property
    @abstractmethod
    def patterns(self) -> Sequence[str]:
        """What the names of the archives look like, such as "*.tar"."""

    @property
    @abstractmethod
    def layout(self) -> str:
        """What the folder should hold and what gets it, for errors."""

    @property
    def index(self) -> CaptionIndex | None:
        """The captions, where they lie apart from the images."""
        return None

    @abstractmethod
    def read(self, part: str) -> Iterator[CaptionedImage | Rejected]:
        """The images of an archive, in its order."""

    def __post_init__(self) -> None:
        if not self._parts:
            raise FileNotFoundError(f"there is no {' or '.join(self.patterns)} in {self.path}; {self.layout}")

    @property
    def root(self) -> Path:
        """The folder."""
        path = Path(self.path).expanduser()
        return path.parent if path.is_file() else path

    @cached_property
    def _parts(self) -> list[str]:
        if (one := Path(self.path).expanduser()).is_file():
            return [one.name] if any(one.match(pattern) for pattern in self.patterns) else []
        paths = {path for pattern in self.patterns for path in self.root.glob(pattern)}
        return sorted(path.relative_to(self.root).as_posix() for path in paths)

    @cached_property
    def _length(self) -> int:
        return estimate_images([self.root / part for part in self._parts])

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __len__(self) -> int:
        return self._length

    def parts(self) -> Sequence[str]:
        """Names of the archives, sorted; the index of the captions is there when they are known."""
        if self.index is not None:
            self.index.make()
        return self._parts

    def files_of(self, part: str) -> Iterable[Path]:
        """The archive, and where the captions are."""
        return [self.root / part, *([] if self.index is None else [self.index.annotations])]
