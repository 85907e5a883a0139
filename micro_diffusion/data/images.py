"""MDS images as a data set of decoded squares at several resolutions."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from streaming import LocalDataset
from torch import Tensor
from torch.utils.data import Dataset

from micro_diffusion.data.integrity import check_folder, check_shard
from micro_diffusion.data.sources.source import Rejected
from micro_diffusion.data.transforms import crop_to_square, to_rgb, to_tensor


class ImageSample(NamedTuple):
    """One picture. squares: by resolution R, uint8 (3, R, R), the centre square. shorter_side: of the file, pixels."""

    squares: dict[int, Tensor]
    caption: str
    key: str
    shorter_side: int


class ImageDataset(Dataset):
    """The pictures of a folder of MDS images, in order.

    Args:
        path: a folder that `scripts/convert.py` made.
        resolutions: sides of the squares, pixels.

    Raises:
        FileNotFoundError: when the folder is missing or incomplete.
        ValueError: from an item of a shard whose bytes have changed since it was written.
    """

    def __init__(self, *, path: str | Path, resolutions: Sequence[int]) -> None:
        self.path = Path(path).expanduser()
        self.resolutions = tuple(resolutions)
        check_folder(self.path, command="python scripts/convert.py source=SOURCE out={path}")
        self.rows = LocalDataset(str(self.path))
        self._checked: set[int] = set()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> ImageSample | Rejected:
        """One picture, or its rejection when it cannot be decoded."""
        shard, _ = self.rows.spanner[index]
        if shard not in self._checked:
            check_shard(self.rows.shards[shard])
            self._checked.add(shard)
        row = self.rows[index]
        try:
            image = to_rgb(Image.open(io.BytesIO(row["image"])))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return Rejected(row["key"], "unreadable picture")
        squares = {resolution: to_tensor(crop_to_square(image, resolution)) for resolution in self.resolutions}
        return ImageSample(squares, row["caption"], row["key"], min(image.size))
