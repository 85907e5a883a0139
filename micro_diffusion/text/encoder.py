"""What every text encoder offers. Legend: B captions, L tokens, D width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch

from micro_diffusion.batch import TokenIds
from micro_diffusion.condition import Condition


@runtime_checkable
class TextEncoder(Protocol):
    """Captions in, per-token features out; frozen, deterministic, no gradient.

    Attributes:
        name: says which weights these are; stored beside the features that they made.
        provenance: which weights these are and how they are used, in JSON values: where they are from, `digest` of
            their values, dtype and settings.
        dim: D, the width of a token's feature.
        max_length: L, the number of rows of every caption, padding included.
    """

    name: str
    provenance: dict[str, Any]
    dim: int
    max_length: int

    def encode(self, captions: Sequence[str]) -> Condition:
        """B captions -> Condition of tokens (B, L, D) and mask (B, L).

        The mask is true from the first token to end-of-text. A caption longer than `max_length` is cut; the encoder
        warns once per caption, naming the words that were cut.
        """
        ...

    def to(self, device: torch.device) -> object:
        """Move the weights, if there are any."""
        ...


@runtime_checkable
class TokenizingEncoder(TextEncoder, Protocol):
    """A text encoder that works in two steps, so that token ids can be stored instead of features.

    `encode(captions)` is `encode_ids(tokenize(captions))`.
    """

    def tokenize(self, captions: Sequence[str]) -> TokenIds:
        """B captions -> ids and mask (B, L), on the CPU."""
        ...

    def encode_ids(self, text: TokenIds) -> Condition:
        """ids (B, L) and mask -> Condition of tokens (B, L, D) and mask (B, L), on the encoder's device."""
        ...


def check_stated(encoder: str, quantity: str, stated: int | None, actual: int) -> None:
    """Raise ValueError when a config states another `quantity` than the weights have; None states nothing."""
    if stated is not None and stated != actual:
        raise ValueError(
            f"text_encoder.{quantity} is {stated}, but {encoder} has {actual}; "
            f"set text_encoder.{quantity}={actual} and precompute again"
        )
