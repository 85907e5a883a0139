"""How latents are stored in MDS rows. Legend: B batch, C channels, h w cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from micro_diffusion.bounds import PositiveFloat
from micro_diffusion.data.format.columns import Entries, RawColumns, array_column, ndarray_encoding, restored
from micro_diffusion.data.format.pixel_format import CompressedPixels
from micro_diffusion.data.format.quantisation import Floats, from_int8, from_uint8, to_int8, to_uint8

Shape = tuple[int, int, int]


class LatentFormat(Protocol):
    """Latents of one size to columns of MDS rows and back; a frozen dataclass whose fields are its settings.

    Attributes:
        name: of the format, as it stands in the metadata.
    """

    name: ClassVar[str]

    def columns(self, name: str, shape: Shape) -> dict[str, str]:
        """MDS encodings of the columns that hold the latents called `name`, of (C, h, w) entries."""
        ...

    def encode(self, name: str, latents: Floats) -> dict[str, Entries]:
        """(B, C, h, w) finite float32 -> B entries of each column."""
        ...

    def decode(self, name: str, columns: RawColumns, shape: Shape) -> Tensor:
        """The columns' bytes of B rows -> (B, C, h, w) float32."""
        ...


@dataclass(frozen=True, kw_only=True)
class Float16Latents:
    """Half precision, 2 bytes a number: what training gets is what the autoencoder gave, rounded to 11 bits."""

    name: ClassVar[str] = "float16"

    def columns(self, name: str, shape: Shape) -> dict[str, str]:
        """One column."""
        return {name: ndarray_encoding(np.float16, shape)}

    def encode(self, name: str, latents: Floats) -> dict[str, Entries]:
        """Rounded to half precision."""
        return {name: latents.astype(np.float16)}

    def decode(self, name: str, columns: RawColumns, shape: Shape) -> Tensor:
        """Exactly what was stored."""
        return torch.from_numpy(array_column(columns[name], np.float16, shape)).float()


@dataclass(frozen=True, kw_only=True)
class Int8Latents:
    """One byte a number and a scale for each channel of each image, so that no range need be known beforehand."""

    name: ClassVar[str] = "int8"

    def columns(self, name: str, shape: Shape) -> dict[str, str]:
        """The integers and their scales."""
        return {name: ndarray_encoding(np.int8, shape), f"{name}_scale": ndarray_encoding(np.float32, shape[:1])}

    def encode(self, name: str, latents: Floats) -> dict[str, Entries]:
        """Error at most half of a channel's scale, 1/254 of its largest absolute value."""
        codes, scale = to_int8(latents, axes=(2, 3))
        return {name: codes, f"{name}_scale": scale}

    def decode(self, name: str, columns: RawColumns, shape: Shape) -> Tensor:
        """The integers times their scales."""
        codes = torch.from_numpy(array_column(columns[name], np.int8, shape))
        scale = torch.from_numpy(array_column(columns[f"{name}_scale"], np.float32, shape[:1]))
        return from_int8(codes, scale[:, :, None, None])


@dataclass(frozen=True, kw_only=True)
class UInt8Latents:
    """One byte a number in steps of one fixed size, after the transformer latent diffusion of 101 M parameters.

    Args:
        limit: largest absolute value that can be stored.
        clip: store larger ones as the limit, as that program does; otherwise they are refused.
    """

    name: ClassVar[str] = "uint8"
    limit: PositiveFloat = 8.0
    clip: bool = False

    def columns(self, name: str, shape: Shape) -> dict[str, str]:
        """One column."""
        return {name: ndarray_encoding(np.uint8, shape)}

    def encode(self, name: str, latents: Floats) -> dict[str, Entries]:
        """Error at most limit/255, but for numbers that are clipped."""
        return {name: to_uint8(latents, limit=self.limit, clip=self.clip)}

    def decode(self, name: str, columns: RawColumns, shape: Shape) -> Tensor:
        """The centres of the steps."""
        return torch.from_numpy(from_uint8(array_column(columns[name], np.uint8, shape), limit=self.limit))


EXACT_LATENTS = Float16Latents()
LATENT_FORMATS = {kind.name: kind for kind in (Float16Latents, Int8Latents, UInt8Latents, CompressedPixels)}


def restore_latent_format(described: Mapping[str, Any]) -> LatentFormat:
    """The format that `columns.describe` has described."""
    return restored(described, LATENT_FORMATS)
