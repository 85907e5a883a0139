"""Tar archives in the layout of WebDataset (https://github.com/webdataset/webdataset) as a source."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import PurePosixPath
from typing import Any

from micro_diffusion.data.sources.archive_source import ArchiveSource
from micro_diffusion.data.sources.archives import PICTURES, File, read_tar
from micro_diffusion.data.sources.source import CaptionedImage, Captions, Rejected, captioned, check_captions


@dataclass(frozen=True, kw_only=True)
class WebDataset(ArchiveSource):
    """Archives whose files belong together when they follow each other and share their names up to the first dot.

    The library webdataset is not used for reading: it takes a damaged archive for one that has ended.

    Args:
        path: folder of the archives.
        shards: pattern of their names, such as "cc12m-train-*.tar".
        caption: ending of the file that holds a picture's caption: "txt", or "json" together with `field`.
        field: of that JSON object, a text or a list of texts.
        captions: of a list, "first" takes one a picture, "all" makes each a row of its own.

    Raises:
        FileNotFoundError: when there are no such archives.
        ValueError: when `captions` is neither, or `field` does not go with `caption`.
    """

    shards: str = "*.tar"
    caption: str = "txt"
    field: str | None = None
    captions: Captions = "first"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_captions(self.captions)
        if (self.field is not None) != (self.caption == "json"):
            raise ValueError(
                f"caption is {self.caption} and field is {self.field}; set source.field where captions are in json "
                "files, and only there"
            )

    @property
    def patterns(self) -> Sequence[str]:
        """The one that was set."""
        return (self.shards,)

    @property
    def layout(self) -> str:
        """For errors."""
        return "set source.path to a folder of WebDataset archives, or source.shards to the pattern of their names"

    def read(self, part: str) -> Iterator[CaptionedImage | Rejected]:
        """The pictures of an archive, their keys prefixed with its name."""
        wanted = {*PICTURES, f".{self.caption}"}
        for key, files in groupby(read_tar(self.root / part, suffixes=wanted), key=lambda file: _sample(file[0])):
            yield from self._pictures(f"{PurePosixPath(part).with_suffix('')}/{key}", list(files))

    def _pictures(self, key: str, files: Sequence[File | Rejected]) -> Iterator[CaptionedImage | Rejected]:
        """The pictures of one sample; more than one are told apart by their endings."""
        pictures = [file for file in files if f".{_ending(file[0])}" in PICTURES]
        texts = [file for file in files if isinstance(file, File) and _ending(file.name) == self.caption]
        if not pictures:
            yield Rejected(key, "no picture")
        for number, picture in enumerate(pictures):
            name = f"{key}.{_ending(picture[0])}" if number else key
            if isinstance(picture, Rejected):
                yield picture._replace(key=name)
            else:
                captions = self._texts(texts[0].content) if texts else ()
                yield captioned(picture.content, captions, name, take=self.captions)

    def _texts(self, content: bytes) -> Sequence[str]:
        text = content.decode(errors="replace")
        if self.field is None:
            return (text,)
        try:
            value: Any = json.loads(text)[self.field]
        except (ValueError, KeyError, TypeError):
            return ()
        return [str(item) for item in (value if isinstance(value, list) else [value]) if item is not None]


def _sample(name: str) -> str:
    """What the files of a sample share: the name up to the first dot after the folder."""
    path = PurePosixPath(name)
    return str(path.with_name(path.name.split(".")[0] or path.name))


def _ending(name: str) -> str:
    """The rest of the name, in lower case."""
    return PurePosixPath(name).name.partition(".")[2].lower()
