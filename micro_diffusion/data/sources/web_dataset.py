"""Tar archives in the layout of WebDataset (https://github.com/webdataset/webdataset) as a source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import PurePosixPath
from typing import Any

from micro_diffusion.bounds import PositiveInt
from micro_diffusion.data.image.file_names import IMAGES, suffix
from micro_diffusion.data.sources.archive_source import ArchiveSource
from micro_diffusion.data.sources.archives import File, read_tar
from micro_diffusion.data.sources.source import (
    CaptionedImage,
    Rejected,
    captioned,
    check_captions,
    kinds_of,
    named_class,
    text_of,
)
from micro_diffusion.data.sources.table import NO_CLASS
from micro_diffusion.files.json_text import parse_json

UNSORTED = "its files do not follow each other in the archive, which tar --sort=name makes them do"


@dataclass(frozen=True, kw_only=True)
class WebDataset(ArchiveSource):
    """Archives whose files belong together when they follow each other and share their names up to the first dot.

    The library webdataset is not used for reading: it takes a damaged archive for one that has ended.

    Args:
        path: folder of the archives.
        shards: pattern of their names, such as "cc12m-train-*.tar".
        caption: ending of the file that holds an image's caption, such as "txt"; or "json:FIELD", a field of a JSON
            object that is a text or a list of texts; or several of these, each a kind of caption.
        captions: of a list, how many are taken, from its first.
        class_names: of the classes that a caption numbers, from 0 on, as `.cls` files do; None where it is a text.

    Raises:
        FileNotFoundError: when there are no such archives.
        ValueError: when a JSON file is named without its field.
    """

    shards: str = "*.tar"
    caption: str | Sequence[str] = "txt"
    captions: PositiveInt = 1
    class_names: Sequence[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_captions(self.captions, single=[f".{ending}" for ending, field in self._kinds if not field])
        for ending, field in self._kinds:
            if ending.endswith("json") and not field:
                raise ValueError(f"caption is {ending}; name the field that holds the caption, as in {ending}:caption")

    @property
    def patterns(self) -> Sequence[str]:
        """The one that was set."""
        return (self.shards,)

    @property
    def _kinds(self) -> list[tuple[str, str]]:
        """The ending of the file of each kind of caption, and the field in it, or ""."""
        return [(ending, field) for ending, _, field in (name.partition(":") for name in kinds_of(self.caption))]

    @property
    def layout(self) -> str:
        """For errors."""
        return "set source.path to a folder of WebDataset archives, or source.shards to the pattern of their names"

    def read(self, part: str) -> Iterator[CaptionedImage | Rejected]:
        """The images of an archive, their keys prefixed with its name."""
        wanted = {*IMAGES, *(suffix(f"x.{ending}") for ending, _ in self._kinds)}
        seen: set[int] = set()
        for key, files in groupby(read_tar(self.root / part, suffixes=wanted), key=lambda file: _sample(file[0])):
            name = f"{PurePosixPath(part).with_suffix('')}/{key}"
            if hash(key) in seen:
                yield Rejected(name, UNSORTED)
                continue
            seen.add(hash(key))
            yield from self._images(name, list(files))

    def _images(self, key: str, files: Sequence[File | Rejected]) -> Iterator[CaptionedImage | Rejected]:
        """The images of one sample; more than one are told apart by their endings.

        Names with dots of their own, such as 22.05.png and 22.05.txt, are several samples; one without a caption of
        its own, such as x.input.jpg beside x.txt, has that of them all.
        """
        texts = {file.name.lower(): file.content for file in files[::-1] if isinstance(file, File)}  # the first counts
        images = [file for file in files if f".{_ending(file[0])}" in IMAGES]
        dotted = [] if images else [file for file in files if suffix(file[0]) in IMAGES]
        if not images and not dotted:
            yield Rejected(key, "no image")
        folder = files[0][0][: len(files[0][0]) - len(PurePosixPath(files[0][0]).name)]
        stem = PurePosixPath(files[0][0]).name.partition(".")[0]
        for number, image in enumerate([*images, *dotted]):
            own = PurePosixPath(image[0]).stem if dotted else stem
            name = f"{key}.{_ending(image[0])}" if number and not dotted else f"{key}{own.removeprefix(stem)}"
            if isinstance(image, Rejected):
                yield image._replace(key=name)
            else:
                kinds = [
                    next((_texts(texts[at], field) for at in _places(folder, (own, stem), ending) if at in texts), None)
                    for ending, field in self._kinds
                ]
                yield self._captioned(image.content, name, kinds)

    def _captioned(self, image: bytes, key: str, kinds: Sequence[Any]) -> CaptionedImage | Rejected:
        """An image with the captions of each kind, or with the names of the classes that they number."""
        if self.class_names is None:
            return captioned(image, key, *kinds, count=self.captions)
        try:
            kinds = [named_class(_number(kind), self.class_names) for kind in kinds]
        except LookupError:
            return Rejected(key, NO_CLASS)
        return captioned(image, key, *kinds, count=self.captions)


def _texts(content: bytes, field: str) -> Any:
    """The caption in a text file, or what a field of a JSON object holds; None when there is no such field."""
    text = text_of(content)
    if not field:
        return text
    try:
        return parse_json(text)[field]
    except (ValueError, KeyError, TypeError):
        return None


def _number(text: Any) -> Any:
    """The number that a text file holds; anything else as it is."""
    return int(text) if isinstance(text, str) and text.strip().isdecimal() else text


def _places(folder: str, stems: Sequence[str], ending: str) -> list[str]:
    """Where a caption may be: the image's own file before that of its sample."""
    return [f"{folder}{stem}.{ending}".lower() for stem in stems]


def _sample(name: str) -> str:
    """What the files of a sample share: the name up to the first dot after the folder."""
    path = PurePosixPath(name)
    return str(path.with_name(path.name.split(".")[0] or path.name))


def _ending(name: str) -> str:
    """The rest of the name, in lower case."""
    return PurePosixPath(name).name.partition(".")[2].lower()
