"""What a row of MDS latents holds, and how its bytes become a batch.

Legend: B rows, C latent channels, R resolution in pixels, h w latent cells, L caption tokens, D caption width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from micro_diffusion.batch import LatentBatch
from micro_diffusion.data.format.batch_memory import CaptionMemory
from micro_diffusion.data.format.caption_formats import CaptionFormat
from micro_diffusion.data.format.columns import Entries, RawColumns, text_column
from micro_diffusion.data.format.latent_formats import LatentFormat


@dataclass(frozen=True, kw_only=True)
class RowFormat:
    """The columns of MDS latents.

    Those of an image's first caption are called `caption` and `caption_...`; of its second one the same after
    `further_1_`, of its third one after `further_2_`, and so on, so that those of one caption are neighbours.

    Attributes:
        latents, captions: their formats.
        channels: C.
        latent_sizes: (h, w) by resolution R, whose latents are (C, h, w) and called `latents_R`.
        caption_length, caption_dim: L and D.
        captions_per_image: at least 1.
    """

    latents: LatentFormat
    captions: CaptionFormat
    channels: int
    latent_sizes: Mapping[int, tuple[int, int]]
    caption_length: int
    caption_dim: int
    captions_per_image: int = 1

    def columns(self) -> dict[str, str]:
        """Names and MDS encodings of all columns."""
        columns = {"key": "str"}
        for resolution in self.latent_sizes:
            columns |= self._latent_columns(resolution)
        for place in range(self.captions_per_image):
            columns |= {_of_caption(place, name): encoding for name, encoding in self._caption_columns().items()}
        return columns

    def caption_columns(self, entries: Mapping[str, Entries]) -> dict[str, Entries]:
        """Columns of all captions, image after image, as columns of the rows."""
        each = self.captions_per_image
        return {_of_caption(i, name): column[i::each] for name, column in entries.items() for i in range(each)}

    def trained_columns(self, resolution: int, caption: int = 0) -> dict[str, str]:
        """Names of the columns that `batch` needs, with those that it knows them by; no others need be read.

        Args:
            resolution: R.
            caption: which of an image's captions, counted from 0.
        """
        shared = ["key", *self._latent_columns(resolution)]
        return {name: name for name in shared} | {_of_caption(caption, name): name for name in self._caption_columns()}

    def batch(self, columns: RawColumns, resolution: int, memory: CaptionMemory | None = None) -> LatentBatch:
        """The bytes of B rows -> a batch of them at one resolution, each with the caption that was read.

        Args:
            columns: that `trained_columns` names.
            resolution: R.
            memory: of earlier batches, to be used again; None takes new memory.
        """
        memory = memory or CaptionMemory()
        captions = self.captions.decode(columns, self.caption_length, self.caption_dim, memory)
        latents = self.latents.decode(f"latents_{resolution}", columns, self._shape(resolution))
        return {
            "latents": latents,
            **captions,
            "caption": text_column(columns["caption"]),
            "key": text_column(columns["key"]),
        }  # pyright: ignore

    def _latent_columns(self, resolution: int) -> dict[str, str]:
        return self.latents.columns(f"latents_{resolution}", self._shape(resolution))

    def _caption_columns(self) -> dict[str, str]:
        return {"caption": "str", **self.captions.columns(self.caption_length, self.caption_dim)}

    def _shape(self, resolution: int) -> tuple[int, int, int]:
        return self.channels, *self.latent_sizes[resolution]


def _of_caption(place: int, name: str) -> str:
    """A caption's name of a column."""
    return f"further_{place}_{name}" if place else name
