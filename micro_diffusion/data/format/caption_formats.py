"""How captions are stored in MDS rows. Legend: B batch, L caption tokens, D caption width, N rows of all captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from micro_diffusion.data.format.batch_memory import CaptionMemory
from micro_diffusion.data.format.columns import Entries, RawColumn, RawColumns, array_column, ndarray_encoding, restored
from micro_diffusion.data.format.quantisation import check_finite, from_int8, to_int8
from micro_diffusion.text.encoder import TokenizingEncoder

if TYPE_CHECKING:
    from micro_diffusion.text.encoder import TextEncoder

TOKENS, SCALE, IDS, LENGTH = "caption_tokens", "caption_scale", "caption_ids", "caption_length"


class CaptionFormat(Protocol):
    """Encoded captions to columns of MDS rows and back; a frozen dataclass whose fields are its settings.

    Attributes:
        name: of the format, as it stands in the metadata.
        padded: whether the rows after end-of-text come back too, which only a network that masks them can do without.
        encoded: whether it holds features rather than token ids.
    """

    name: ClassVar[str]
    encoded: ClassVar[bool]

    @property
    def padded(self) -> bool:
        """As above."""
        ...

    def columns(self, length: int, dim: int) -> dict[str, str]:
        """MDS encodings of the columns that hold a caption of L rows of width D."""
        ...

    def encode(self, text_encoder: TextEncoder, captions: Sequence[str]) -> dict[str, Entries]:
        """B captions -> B entries of each column."""
        ...

    def decode(self, columns: RawColumns, length: int, dim: int, memory: CaptionMemory) -> dict[str, Tensor]:
        """The columns' bytes of B rows -> what a batch holds of the captions, in the memory where that is faster."""
        ...


@dataclass(frozen=True, kw_only=True)
class CaptionFeatures:
    """The text encoder's features.

    In a causal text tower the rows after end-of-text depend on the caption, so they cannot be made up later.

    Args:
        dtype: "float16", or "int8" with a scale for each token.
        padded: keep the rows after end-of-text, which a network needs that does not mask them.
    """

    name: ClassVar[str] = "features"
    encoded: ClassVar[bool] = True
    dtype: str = "float16"
    padded: bool = True

    def __post_init__(self) -> None:
        if self.dtype not in ("float16", "int8"):
            raise ValueError(f"caption_format.dtype is {self.dtype!r}; set it to float16 or int8")

    @property
    def _numbers(self) -> type[np.generic]:
        return np.int8 if self.dtype == "int8" else np.float16

    def columns(self, length: int, dim: int) -> dict[str, str]:
        """Features, scales where they are integers, and the number of rows up to and including end-of-text."""
        shapes = {
            TOKENS: ndarray_encoding(self._numbers, (length, dim)),
            SCALE: ndarray_encoding(np.float32, (length,)),
        }
        if self.dtype == "float16":
            del shapes[SCALE]
        return {**(shapes if self.padded else dict.fromkeys(shapes, "bytes")), LENGTH: "int"}

    def encode(self, text_encoder: TextEncoder, captions: Sequence[str]) -> dict[str, Entries]:
        """Those that the text encoder makes; see `store`."""
        tokens, mask, *_ = text_encoder.encode(captions)
        tokens = tokens.float().cpu()
        check_finite(tokens, f"features by the text encoder {text_encoder.name}", captions)
        return self.store(tokens, _lengths(torch.ones(tokens.shape[:2]) if mask is None else mask, text_encoder))

    def store(self, tokens: Tensor, lengths: Sequence[int]) -> dict[str, Entries]:
        """(B, L, D) finite floats on the CPU, and the number of rows up to end-of-text -> B entries of each column.

        Float16 is exact but for its rounding; an error of int8 is at most 1/254 of a token's largest value.
        """
        stored: dict[str, np.ndarray] = {TOKENS: tokens.half().numpy()}
        if self.dtype == "int8":
            stored[TOKENS], stored[SCALE] = to_int8(tokens.numpy(), axes=2)
        if self.padded:
            return {**stored, LENGTH: lengths}
        cut = {name: [row[:n].tobytes() for row, n in zip(rows, lengths, strict=True)] for name, rows in stored.items()}
        return {**cut, LENGTH: lengths}

    def decode(self, columns: RawColumns, length: int, dim: int, memory: CaptionMemory) -> dict[str, Tensor]:
        """caption_tokens (B, L, D) in half precision, zero where no row was stored, and caption_mask (B, L)."""
        mask = _mask(columns[LENGTH], length)
        if self.padded and self.dtype == "float16":
            tokens = torch.from_numpy(array_column(columns[TOKENS], np.float16, (length, dim)))
            return {"caption_tokens": tokens, "caption_mask": mask}
        kept = [length] * len(mask) if self.padded else mask.sum(dim=1).tolist()
        tokens = memory.tensor(kept, length, dim)
        cuts = [rows for n in kept for rows in (n, length - n)]
        places = tokens.view(-1, dim).split(cuts)[::2]
        stored = torch.from_numpy(array_column(columns[TOKENS], self._numbers, (dim,))).split(kept)
        if self.dtype == "float16":
            for place, rows in zip(places, stored, strict=True):
                place.copy_(rows)
        else:  # caption by caption, so that the numbers stay in the processor's cache
            scales = torch.from_numpy(array_column(columns[SCALE], np.float32, (1,))).split(kept)
            for place, codes, scale in zip(places, stored, scales, strict=True):
                from_int8(codes, scale, out=place)
        return {"caption_tokens": tokens, "caption_mask": mask}


@dataclass(frozen=True, kw_only=True)
class CaptionIds:
    """The tokens' numbers, 2 bytes each; the text encoder runs in the training step."""

    name: ClassVar[str] = "token_ids"
    kind: ClassVar[type[np.unsignedinteger]] = np.uint16
    encoded: ClassVar[bool] = False

    @property
    def padded(self) -> bool:
        """The encoder gives all rows."""
        return True

    def columns(self, length: int, dim: int) -> dict[str, str]:
        """The numbers, and how many there are up to and including end-of-text."""
        return {IDS: ndarray_encoding(self.kind, (length,)), LENGTH: "int"}

    def encode(self, text_encoder: TextEncoder, captions: Sequence[str]) -> dict[str, Entries]:
        """Exact, for encoders that know token ids and have at most 65,536 of them."""
        if not isinstance(text_encoder, TokenizingEncoder):
            raise ValueError(
                f"the text encoder {text_encoder.name} has no token ids; set caption_format to another one than "
                "token_ids"
            )
        ids, mask = text_encoder.tokenize(captions)
        largest = int(ids.max())
        if largest > np.iinfo(self.kind).max:
            raise ValueError(
                f"{text_encoder.name} has a token {largest}, which {self.kind().nbytes} bytes cannot hold; set "
                "caption_format to token_ids_4, or to another one than token ids"
            )
        return {IDS: ids.numpy().astype(self.kind), LENGTH: _lengths(mask, text_encoder)}

    def decode(self, columns: RawColumns, length: int, dim: int, memory: CaptionMemory) -> dict[str, Tensor]:
        """caption_ids (B, L) int64 and caption_mask (B, L)."""
        ids = array_column(columns[IDS], self.kind, (length,)).astype(np.int64)
        return {"caption_ids": torch.from_numpy(ids), "caption_mask": _mask(columns[LENGTH], length)}


@dataclass(frozen=True, kw_only=True)
class CaptionLongIds(CaptionIds):
    """The same in 4 bytes each, for vocabularies of more than 65,536 tokens, such as those of Qwen and Gemma."""

    name: ClassVar[str] = "token_ids_4"
    kind: ClassVar[type[np.unsignedinteger]] = np.uint32


EXACT_CAPTIONS = CaptionFeatures()
CAPTION_FORMATS = {kind.name: kind for kind in (CaptionFeatures, CaptionIds, CaptionLongIds)}


def restore_caption_format(described: Mapping[str, Any]) -> CaptionFormat:
    """The format that `columns.describe` has described."""
    return restored(described, CAPTION_FORMATS)


def _lengths(mask: Tensor, text_encoder: TextEncoder) -> list[int]:
    """(B, L) -> rows in use of each caption."""
    mask = mask.bool().cpu()
    lengths = mask.sum(dim=1)
    if not torch.equal(mask, torch.arange(mask.shape[1]) < lengths[:, None]):
        raise ValueError(f"the mask of {text_encoder.name} has gaps; only padding after the caption can be stored")
    return lengths.tolist()


def _mask(column: RawColumn, length: int) -> Tensor:
    """The rows in use of B captions (B, L)."""
    lengths = torch.from_numpy(array_column(column, np.int64, ()))
    return torch.arange(length) < lengths[:, None]
