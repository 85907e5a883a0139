"""DiffusionDB (Wang et al. 2022, https://huggingface.co/datasets/poloclub/diffusiondb) as a source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from micro_diffusion.bounds import Fraction
from micro_diffusion.data.image.file_names import IMAGES
from micro_diffusion.data.sources.archive_source import ArchiveSource
from micro_diffusion.data.sources.archives import File, read_zip
from micro_diffusion.data.sources.caption_index import CaptionIndex, Lookup
from micro_diffusion.data.sources.parquet_files import read_columns
from micro_diffusion.data.sources.source import CaptionedImage, Rejected
from micro_diffusion.files.json_text import parse_json

_IMAGES_OF_AN_ARCHIVE = 1000
_FILES = {
    "large": (("diffusiondb-large-part-*/part-*.zip",), "metadata-large.parquet"),
    "2m": (("images/part-*.zip",), "metadata.parquet"),
}


@dataclass(frozen=True, kw_only=True)
class DiffusionDB(ArchiveSource):
    """Images that people made with Stable Diffusion, with their prompts and scores of how unsafe they are.

    Args:
        path: folder laid out as on the hub.
        subset: "large", 14 million images, or "2m", two million.
        maximum_image_nsfw, maximum_prompt_nsfw: images with a higher score are rejected; in [0, 1], where 2 is the
            score of images that Stable Diffusion itself has blurred. None sets no limit; with no limit at all, the
            prompts are taken from the archives, and the metadata are not needed.

    Raises:
        FileNotFoundError: when the archives or the metadata are not there.
        ValueError: when there is no such subset.
    """

    subset: Literal["large", "2m"] = "large"
    maximum_image_nsfw: Fraction | None = 0.2
    maximum_prompt_nsfw: Fraction | None = 0.2

    def __post_init__(self) -> None:
        if self.subset not in _FILES:
            raise ValueError(f"subset is {self.subset!r}; set source.subset to {' or '.join(_FILES)}")
        super().__post_init__()
        if self._limits and not self._metadata.is_file():
            raise FileNotFoundError(f"there is no file {self._metadata}; {self.layout}")

    @property
    def patterns(self) -> Sequence[str]:
        """Archives of a thousand images each."""
        return _FILES[self.subset][0]

    @property
    def layout(self) -> str:
        """For errors."""
        archives, metadata = _FILES[self.subset]
        return f"source.path should hold {archives[0]} and {metadata}, which scripts/datasets/diffusiondb.sh gets"

    @property
    def _metadata(self) -> Path:
        return self.root / _FILES[self.subset][1]

    @property
    def _limits(self) -> dict[str, float]:
        """Highest scores by the name of their column."""
        limits = {"image_nsfw": self.maximum_image_nsfw, "prompt_nsfw": self.maximum_prompt_nsfw}
        return {name: limit for name, limit in limits.items() if limit is not None}

    @property
    def index(self) -> CaptionIndex | None:
        """Of prompts and scores, unless the prompts in the archives are enough."""
        return CaptionIndex(self._metadata, _read_metadata) if self._limits else None

    def __len__(self) -> int:
        return _IMAGES_OF_AN_ARCHIVE * len(self._parts)

    def read(self, part: str) -> Iterator[CaptionedImage | Rejected]:
        """The images of an archive, without those above a limit."""
        archive = self.root / part
        with _open_archive(archive) if self.index is None else self.index.open() as look_up:
            for file in read_zip(archive, suffixes=IMAGES):
                key = PurePosixPath(file[0]).name
                if isinstance(file, Rejected):
                    yield file._replace(key=key)
                else:
                    yield self._image(file, key, look_up(key))

    def _image(self, file: File, key: str, rows: Sequence[Any]) -> CaptionedImage | Rejected:
        if not rows:
            return Rejected(key, "no caption")
        for name, limit in self._limits.items():
            score = rows[0][name]
            if score is None:
                return Rejected(key, f"no {name}")
            if not score <= limit:
                return Rejected(key, f"{name} above {limit}")
        return CaptionedImage(file.content, rows[0]["prompt"] or "", key)


@contextmanager
def _open_archive(path: Path) -> Iterator[Lookup]:
    """The prompts in an archive's own JSON file, by the name of the image."""
    file = next(read_zip(path, suffixes={".json"}), None)
    if not isinstance(file, File):
        raise ValueError(f"{path} holds no JSON file of prompts; get this file again")
    try:
        prompts = {name: row["p"] for name, row in parse_json(file.content).items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds no prompts ({error!r} in {file.name}); get this file again") from error
    yield lambda key: [{"prompt": prompts[key]}] if key in prompts else []


def _read_metadata(path: Path) -> Iterator[tuple[str, Any]]:
    """Pairs of an image's name and its prompt and scores."""
    columns = ("prompt", "image_nsfw", "prompt_nsfw")
    for name, *row in read_columns(path, ("image_name", *columns)):
        yield name, dict(zip(columns, row, strict=True))
