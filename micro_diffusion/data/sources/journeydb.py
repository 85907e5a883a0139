"""JourneyDB (Sun et al. 2023, https://huggingface.co/datasets/JourneyDB/JourneyDB) as a source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from micro_diffusion.data.image.file_names import IMAGES
from micro_diffusion.data.sources.archive_source import ArchiveSource
from micro_diffusion.data.sources.archives import read_lines, read_tar
from micro_diffusion.data.sources.caption_index import CaptionIndex
from micro_diffusion.data.sources.source import CaptionedImage, Rejected, captioned
from micro_diffusion.files.json_text import parse_json


@dataclass(frozen=True, kw_only=True)
class JourneyDB(ArchiveSource):
    """Images that people made with Midjourney, with their prompts.

    The prompts of four million images are in one file, in an order of their own; an index of them is made beside it.

    Args:
        path: folder that holds `data/SPLIT/imgs/000.tgz` and so on, and `data/SPLIT/SPLIT_anno*repath.jsonl.tgz`.
        split: "train" or "valid".

    Raises:
        FileNotFoundError: when the archives or the prompts are not there.
    """

    split: Literal["train", "valid"] = "train"

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.index

    @property
    def patterns(self) -> Sequence[str]:
        """Two hundred archives at most."""
        return (f"data/{self.split}/imgs/*.tgz",)

    @property
    def layout(self) -> str:
        """For errors."""
        return (
            f"source.path should hold data/{self.split}/imgs/000.tgz and so on, and the prompts in "
            f"data/{self.split}/{self.split}_anno*repath.jsonl.tgz, which scripts/datasets/journeydb.sh gets"
        )

    @property
    def index(self) -> CaptionIndex:
        """Of the prompts."""
        folder = self.root / "data" / self.split
        endings = (".jsonl", ".jsonl.tgz")
        found = sorted(path for end in endings for path in folder.glob(f"{self.split}_anno*repath{end}"))
        if not found:
            raise FileNotFoundError(f"there are no prompts in {folder}; {self.layout}")
        return CaptionIndex(found[0], _read_prompts)

    def read(self, part: str) -> Iterator[CaptionedImage | Rejected]:
        """The images of an archive."""
        with self.index.open() as prompts:
            for file in read_tar(self.root / part, suffixes=IMAGES):
                key = f"{PurePosixPath(part).stem}/{PurePosixPath(file[0]).name}"
                if isinstance(file, Rejected):
                    yield file._replace(key=key)
                else:
                    yield captioned(file.content, key, prompts(key))


def _read_prompts(path: Path) -> Iterator[tuple[str, Any]]:
    """Pairs of "000/NAME.jpg" and prompt."""
    for number, line in enumerate(read_lines(path, suffix_of_member=".jsonl"), 1):
        try:
            row = parse_json(line)
            yield "/".join(PurePosixPath(row["img_path"]).parts[-2:]), row.get("prompt")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"line {number} of {path} is no prompt ({error!r}); get this file again") from error
