"""SA-1B (Kirillov et al. 2023, https://ai.meta.com/datasets/segment-anything) with written captions, as a source.

The captions are those that LLaVA wrote for PixArt-alpha (Chen et al. 2023),
https://huggingface.co/datasets/PixArt-alpha/SAM-LLaVA-Captions10M.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from micro_diffusion.data.image.file_names import IMAGES, suffix
from micro_diffusion.data.sources.archive_source import ArchiveSource
from micro_diffusion.data.sources.archives import File, read_tar
from micro_diffusion.data.sources.caption_index import CaptionIndex
from micro_diffusion.data.sources.parquet_files import read_columns
from micro_diffusion.data.sources.source import CaptionedImage, Rejected, captioned, text_of


@dataclass(frozen=True, kw_only=True)
class SA1B(ArchiveSource):
    """Photographs of SA-1B; the masks beside them are skipped unread.

    Args:
        path: folder of `sa_000000.tar` and so on.
        caption_path: `SA1B_caption.tar.gz`, in which each image has a text file of its name; or a parquet file, or a
            folder of them, with columns `__key__` and `txt`; or a folder of the text files. An index of them is made
            beside it.

    Raises:
        FileNotFoundError: when the archives or the captions are not there.
    """

    caption_path: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self._captions.exists():
            raise FileNotFoundError(f"there are no captions {self._captions}; {self.layout}")

    @property
    def patterns(self) -> Sequence[str]:
        """A thousand archives at most."""
        return ("sa_*.tar",)

    @property
    def layout(self) -> str:
        """For errors."""
        return (
            "source.path should hold sa_000000.tar and so on, and source.caption_path be SA1B_caption.tar.gz, which "
            "scripts/datasets/sa1b.sh gets"
        )

    @property
    def _captions(self) -> Path:
        return Path(self.caption_path).expanduser()

    @property
    def index(self) -> CaptionIndex:
        """Of all captions."""
        return CaptionIndex(self._captions, _read_captions)

    def read(self, part: str) -> Iterator[CaptionedImage | Rejected]:
        """The images of an archive."""
        with self.index.open() as captions:
            for file in read_tar(self.root / part, suffixes=IMAGES):
                key = PurePosixPath(file[0]).stem
                if isinstance(file, Rejected):
                    yield file._replace(key=key)
                else:
                    yield captioned(file.content, key, captions(key))


def _read_captions(path: Path) -> Iterator[tuple[str, str]]:
    """Pairs of "sa_1" and what the image shows."""
    if suffix(path.name) == ".parquet" or any(path.rglob("*.parquet")):
        for name, text in read_columns(path, ("__key__", "txt")):
            yield PurePosixPath(name).name, text
    elif path.is_dir():
        for file in path.rglob("*.txt"):
            yield file.stem, text_of(file.read_bytes())
    else:
        for member in read_tar(path, suffixes={".txt"}):
            if isinstance(member, File):
                yield PurePosixPath(member.name).stem, text_of(member.content)
