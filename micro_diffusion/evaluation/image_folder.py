"""Images to compare, from a folder of image files or a folder of MDS images, all prepared in the same way.

Legend: B images, H W their height and width in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import xxhash
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from micro_diffusion.bounds import PositiveInt
from micro_diffusion.data.image.crops import CentreSquare
from micro_diffusion.data.image.file_names import files_below, kind
from micro_diffusion.data.image.open_image import UnreadableImage, read_image
from micro_diffusion.data.image.transforms import to_tensor
from micro_diffusion.data.stream.images import ImageDataset
from micro_diffusion.data.stream.integrity import INDEX

FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
}
Filter = Literal["lanczos", "bicubic", "bilinear", "box"]


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What happens to an image, real or generated, before a feature network sees it.

    Args:
        size: the square in the middle is resized to so many pixels a side; None leaves images as they are.
        filter: of Pillow, antialiased. An image that has the size is not filtered.
    """

    size: PositiveInt | None = None
    filter: Filter = "lanczos"

    def __call__(self, image: Image.Image) -> Tensor:
        """An RGB image -> uint8 (3, H, W)."""
        if self.size is None or image.size == (self.size, self.size):
            return to_tensor(image)
        side = min(image.size)
        left, top = ((whole - side) // 2 for whole in image.size)
        square = image.crop((left, top, left + side, top + side))
        return to_tensor(square.resize((self.size, self.size), FILTERS[self.filter]))

    def __str__(self) -> str:
        return "as they are" if self.size is None else f"centre square, {self.filter} to {self.size}"


class ImageFiles(Dataset):
    """The images of a folder, prepared; an image that cannot be read is a sentence that says so.

    Args:
        folder: of image files, searched with the folders below it, or of MDS images.
        preparation: of each image.
        files: instead of all image files of the folder, these, relative to it.

    Raises:
        FileNotFoundError: when the folder, an image in it or one of the files is not there.
    """

    def __init__(self, folder: Path, preparation: Preparation, files: list[str] | None = None) -> None:
        self.folder, self.preparation = folder, preparation
        self.mds: ImageDataset | None = None
        if not folder.is_dir():
            raise FileNotFoundError(f"there is no folder of images {folder}; name one of image files or of MDS images")
        if files is None and (folder / INDEX).is_file():
            self.mds = ImageDataset(path=folder, resolutions=(), cut=CentreSquare())
            return
        found = files_below(folder) if files is None else (folder / name for name in files)
        self.paths = sorted(path for path in found if kind(path.name) == "image") if files is None else list(found)
        if not self.paths:
            raise FileNotFoundError(f"there are no images in {folder}; name a folder of image files or of MDS images")
        if lost := [path.name for path in self.paths if not path.is_file()]:
            raise FileNotFoundError(
                f"{len(lost)} of {len(self.paths)} images are missing from {folder}, the first is {lost[0]}; generate "
                "them with the same command again"
            )

    def __len__(self) -> int:
        return len(self.paths) if self.mds is None else len(self.mds)

    def __getitem__(self, index: int) -> Tensor | str:
        """uint8 (3, H, W), or why there is none."""
        try:
            if self.mds is not None:
                return self.preparation(self.mds.whole(index))
            return self.preparation(read_image(self.paths[index].read_bytes()).rgb)
        except UnreadableImage:
            name = f"image {index}" if self.mds is not None else self.paths[index].name
            return f"{name} in {self.folder} cannot be read as an image; replace or remove it"

    def digest(self) -> str:
        """Of names and bytes of all files that hold images, in hexadecimal."""
        paths = self.paths if self.mds is None else sorted(files_below(self.folder))
        digest = xxhash.xxh3_128()
        for path in paths:
            digest.update(f"{path.relative_to(self.folder)}\n".encode())
            with path.open("rb") as file:
                while block := file.read(2**22):
                    digest.update(block)
        return digest.hexdigest()


def batches_of(images: ImageFiles, *, batch_size: int, workers: int = 0) -> Iterator[Tensor]:
    """The images in order, as uint8 (B, 3, H, W).

    Raises:
        ValueError: when one cannot be read, or they are of several sizes.
    """
    random = torch.Generator()  # a loader draws a seed in any case; a run that is training keeps its own generator
    for batch in DataLoader(images, batch_size=batch_size, num_workers=workers, collate_fn=list, generator=random):
        for image in batch:
            if isinstance(image, str):
                raise ValueError(image)
        sizes = {tuple(image.shape[1:]) for image in batch}
        if len(sizes) > 1:
            (height, width), (other, wide) = sorted(sizes)[:2]
            raise ValueError(
                f"images in {images.folder} are of several sizes, such as {height}×{width} and {other}×{wide}; give "
                "--size to cut and resize them all"
            )
        yield torch.stack(batch)
