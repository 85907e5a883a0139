"""How images themselves are stored in MDS rows, for models of pixels. Legend: B batch, h w pixels."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Interval
from PIL import Image
from torch import Tensor

from micro_diffusion.data.format.columns import Entries, RawColumns
from micro_diffusion.data.format.quantisation import Floats, from_uint8, to_uint8

Shape = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class CompressedPixels:
    """Latents that are pixels in [-1, 1], those of autoencoder=identity, as one compressed image file each.

    Args:
        quality: of JPEG, from 1 to 100; None compresses without loss, as PNG, from which training gets the 8-bit
            pixels exactly.
    """

    name: ClassVar[str] = "pixels"
    quality: Annotated[int, Interval(ge=1, le=100)] | None = None

    def columns(self, name: str, shape: Shape) -> dict[str, str]:
        """One column of files."""
        if shape[0] != 3:
            raise ValueError(
                f"latent_format=pixels holds images of 3 channels, but the latents have {shape[0]}; set "
                "autoencoder=identity, or another latent_format"
            )
        return {name: "bytes"}

    def encode(self, name: str, latents: Floats) -> dict[str, Entries]:
        """B files; ValueError for numbers beyond [-1, 1]."""
        return {name: [self._file(pixels) for pixels in to_uint8(latents, limit=1.0).transpose(0, 2, 3, 1)]}

    def decode(self, name: str, columns: RawColumns, shape: Shape) -> Tensor:
        """(B, 3, h, w); ValueError for an image of another size than the metadata say."""
        images = [np.asarray(Image.open(io.BytesIO(bytes(file)))) for file in columns[name]]
        wanted = (*shape[1:], shape[0])
        for image in images:
            if image.shape != wanted:
                raise ValueError(
                    f"an image of {name} is {image.shape}, but should be {wanted} (height, width, channels); make the "
                    "data folder again"
                )
        return torch.from_numpy(from_uint8(np.stack(images).transpose(0, 3, 1, 2), limit=1.0)).contiguous()

    def _file(self, pixels: np.ndarray) -> bytes:
        """(h, w, 3) uint8 -> the bytes of a file."""
        file = io.BytesIO()
        settings = {"format": "PNG"} if self.quality is None else {"format": "JPEG", "quality": self.quality}
        Image.fromarray(np.ascontiguousarray(pixels)).save(file, **settings)
        return file.getvalue()
