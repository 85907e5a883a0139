"""MDS images as a data set of decoded images, cut to one shape, at several resolutions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from streaming import LocalDataset
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from micro_diffusion.data.image.crops import Crop
from micro_diffusion.data.image.open_image import UnreadableImage, read_image
from micro_diffusion.data.image.transforms import crop, to_tensor
from micro_diffusion.data.sources.source import Rejected
from micro_diffusion.data.stream.integrity import check_folder, check_shard
from micro_diffusion.machine.processes import KILLED_WORKER


class ImageSample(NamedTuple):
    """One image.

    crops: by resolution, uint8 (3, H, W). captions: at least one. enlarged: resolutions for which the file has too few
    pixels.
    """

    crops: dict[int, Tensor]
    captions: tuple[str, ...]
    key: str
    enlarged: tuple[int, ...]


Batches = Iterator[tuple[int, list[ImageSample | Rejected | None]]]
"""Batches of images, each with the number of the part that it belongs to."""


class ImageDataset(Dataset):
    """The images of a folder of MDS images, in order.

    Args:
        path: a folder that `scripts/convert.py` made.
        resolutions: of the crops, pixels.
        cut: which part of an image, in which shape.

    Raises:
        FileNotFoundError: when the folder is missing or incomplete.
        ValueError: from an item of a shard whose bytes have changed since it was written.
    """

    def __init__(self, *, path: str | Path, resolutions: Sequence[int], cut: Crop) -> None:
        self.path = Path(path).expanduser()
        self.resolutions, self.cut = tuple(resolutions), cut
        check_folder(self.path, command="python scripts/convert.py source=SOURCE out={path}")
        self.rows = LocalDataset(str(self.path))
        self._checked: set[int] = set()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def captions_per_image(self) -> int:
        """The same for all images of a folder."""
        return len(self.captions(0))

    def __getitem__(self, index: int) -> ImageSample | Rejected | None:
        """One image, its rejection when it cannot be decoded, or None when its shape is not wanted."""
        row = self._row(index)
        if "width" in row and not self.cut.takes(row["width"], row["height"]):
            return None
        try:
            image = read_image(row["image"]).rgb
        except UnreadableImage:
            return Rejected(row["key"], "unreadable image")
        if not self.cut.takes(*image.size):
            return None
        sizes = {resolution: self.cut.size(resolution) for resolution in self.resolutions}
        place = self.cut.place(row["key"])
        crops = {resolution: to_tensor(crop(image, size, place)) for resolution, size in sizes.items()}
        enlarged = tuple(r for r, (height, width) in sizes.items() if image.width < width or image.height < height)
        return ImageSample(crops, _captions(row), row["key"], enlarged)

    def whole(self, index: int) -> Image.Image:
        """One image as it was stored, in RGB; an UnreadableImage when it cannot be decoded."""
        return read_image(self._row(index)["image"]).rgb

    def captions(self, index: int) -> tuple[str, ...]:
        """Those of one image, which is not decoded."""
        return _captions(self._row(index))

    def _row(self, index: int) -> dict[str, Any]:
        """A row of a shard whose bytes are those that were written."""
        shard, _ = self.rows.spanner[index]
        if shard not in self._checked:
            check_shard(self.rows.shards[shard])
            self._checked.add(shard)
        return self.rows[index]


def decoded(dataset: ImageDataset, parts: Mapping[int, range], *, batch_size: int, workers: int) -> Batches:
    """The images of some parts in order; no batch crosses two of them.

    Args:
        dataset: of the images.
        parts: the places of each part's images, by its number.
        batch_size: images of a batch, but for the last one of a part.
        workers: processes that decode; 0 decodes in this one.

    Raises:
        ChildProcessError: when one of them is killed.
    """
    places = []
    for number, run in parts.items():
        places += [(number, run[cut.start : cut.stop]) for cut in runs(len(run), batch_size)]
    loader = DataLoader(dataset, batch_sampler=[run for _, run in places], num_workers=workers, collate_fn=list)
    try:
        for (number, _), batch in zip(places, loader, strict=True):
            yield number, batch
    except RuntimeError as error:
        if not KILLED_WORKER.search(str(error)):
            raise
        raise ChildProcessError(
            "a process that decodes images was killed, perhaps for lack of memory; give the same command again, with "
            "fewer workers if need be"
        ) from error


def _captions(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Of a row of MDS images; those that earlier versions wrote have one."""
    return row["caption"], *row.get("further_captions", ())


def runs(count: int, size: int) -> list[range]:
    """0 ... count - 1 in runs of `size`."""
    if size < 1:
        raise ValueError(f"{size} images cannot be a part or a batch; set part_size and batch_size to at least 1")
    return [range(start, min(start + size, count)) for start in range(0, count, size)]
