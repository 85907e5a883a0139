"""What a row of MDS latents holds, and how its bytes become a batch.

Legend: B rows, C latent channels, R resolution in pixels, h w latent cells, L caption tokens, D caption width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from micro_diffusion.batch import LatentBatch
from micro_diffusion.data.caption_formats import CaptionFormat
from micro_diffusion.data.columns import RawColumns, text_column
from micro_diffusion.data.latent_formats import LatentFormat


@dataclass(frozen=True, kw_only=True)
class RowFormat:
    """The columns of MDS latents.

    Attributes:
        latents, captions: their formats.
        channels: C.
        latent_sizes: (h, w) by resolution R, whose latents are (C, h, w) and called `latents_R`.
        caption_length, caption_dim: L and D.
    """

    latents: LatentFormat
    captions: CaptionFormat
    channels: int
    latent_sizes: Mapping[int, tuple[int, int]]
    caption_length: int
    caption_dim: int

    def columns(self) -> dict[str, str]:
        """Names and MDS encodings of all columns."""
        latents = [self.latents.columns(f"latents_{r}", self._shape(r)) for r in self.latent_sizes]
        return {
            **{name: encoding for columns in latents for name, encoding in columns.items()},
            **self.captions.columns(self.caption_length, self.caption_dim),
            "caption": "str",
            "key": "str",
        }

    def trained_columns(self, resolution: int) -> list[str]:
        """Names of the columns that `batch` takes; no others need be read."""
        return list(replace(self, latent_sizes={resolution: self.latent_sizes[resolution]}).columns())

    def batch(self, columns: RawColumns, resolution: int) -> LatentBatch:
        """The bytes of B rows -> a batch of them at one resolution."""
        captions = self.captions.decode(columns, self.caption_length, self.caption_dim)
        latents = self.latents.decode(f"latents_{resolution}", columns, self._shape(resolution))
        return {
            "latents": latents,
            **captions,
            "caption": text_column(columns["caption"]),
            "key": text_column(columns["key"]),
        }  # pyright: ignore

    def _shape(self, resolution: int) -> tuple[int, int, int]:
        return self.channels, *self.latent_sizes[resolution]
