"""What every text encoder offers. Legend: B captions, L tokens, D width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from micro_diffusion.batch import TextCondition


@runtime_checkable
class TextEncoder(Protocol):
    """Captions in, per-token features out; frozen, deterministic, no gradient.

    Attributes:
        name: says which weights these are; stored beside the features that they made.
        dim: D, the width of a token's feature.
        max_length: L, the number of rows of every caption, padding included.
    """

    name: str
    dim: int
    max_length: int

    def encode(self, captions: Sequence[str]) -> TextCondition:
        """B captions -> TextCondition of tokens (B, L, D) and mask (B, L).

        The mask is true from the first token to end-of-text. A caption longer than `max_length` is cut; the encoder
        warns once per caption, naming the words that were cut.
        """
        ...
