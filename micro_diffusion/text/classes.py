"""Classes in place of captions: one token, by whose place a network knows the class. Legend: B captions, K classes."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence

import torch
from torch.nn import functional

from micro_diffusion.batch import TokenIds
from micro_diffusion.bounds import NonNegativeInt, PositiveInt
from micro_diffusion.condition import Condition
from micro_diffusion.text.encoder import check_stated

_SHOWN = 8


class ClassEncoder:
    """A caption is the name of a class, or its number; its one token is 1 at the class's place and 0 elsewhere.

    A linear layer on it is an embedding of the class, and the null condition (all zero) is the class of none. With
    `caption_format=token_ids` 2 bytes hold a class.

    Args:
        names: of the K classes, in the order of their numbers; None where the data say them: `precompute` takes the
            distinct captions of the images then, and training what the latents' metadata has.
        dim: what the config says K is, checked.
        max_length: what the config says L is, checked; a class is one token.

    Raises:
        ValueError: for a name that is there twice, fewer than one or more than 65,536 classes, or another number of
            them than stated.
    """

    def __init__(
        self, *, names: Sequence[str] | None, dim: NonNegativeInt | None = None, max_length: PositiveInt = 1
    ) -> None:
        self.name = "classes"
        self.max_length = 1
        self.names = [] if names is None else list(names)
        self.is_complete = names is not None
        if self.is_complete and not 1 <= len(self.names) <= 65536:
            raise ValueError(f"text_encoder.names has {len(self.names)} classes; name from 1 to 65,536")
        if twice := [name for name, count in Counter(self.names).items() if count > 1]:
            raise ValueError(f"text_encoder.names has {', '.join(twice)} twice; name each class once")
        self.numbers = {name: number for number, name in enumerate(self.names)}
        self.dim = len(self.names)
        self.provenance = {"names": self.names}
        if self.is_complete:
            check_stated("text_encoder.names", "dim", dim, self.dim)
        check_stated("a class", "max_length", max_length, self.max_length)

    def encode(self, captions: Sequence[str]) -> Condition:
        """B names or numbers -> tokens (B, 1, K) and mask (B, 1).

        Raises:
            ValueError: for a class that there is not; names those that are alike.
        """
        return self.encode_ids(self.tokenize(captions))

    def tokenize(self, captions: Sequence[str]) -> TokenIds:
        """B names or numbers -> the classes' numbers (B, 1); ValueError as `encode` raises it."""
        ids = torch.tensor([[self._number(caption)] for caption in captions])
        return TokenIds(ids, torch.ones_like(ids, dtype=torch.bool))

    def encode_ids(self, text: TokenIds) -> Condition:
        """Numbers (B, 1) -> tokens (B, 1, K) float32 and the mask, on the device of the numbers."""
        return Condition(functional.one_hot(text.ids.long(), self.dim).float(), text.mask)

    def to(self, device: torch.device) -> None:
        """There are no weights to move."""

    def _number(self, caption: str) -> int:
        if not self.is_complete:
            raise ValueError("text_encoder.names is null, so no class is known; set it to the list of class names")
        if caption in self.numbers:
            return self.numbers[caption]
        if caption.isdecimal() and int(caption) < self.dim:
            return int(caption)
        lower = {name.lower(): name for name in reversed(self.names)}
        alike = [lower[name] for name in difflib.get_close_matches(caption.lower(), lower, n=3)]
        guess = f"did you mean {' or '.join(alike)}? " if alike else ""
        more = f" and {self.dim - _SHOWN} more" if self.dim > _SHOWN else ""
        raise ValueError(
            f"there is no class {caption!r}; {guess}give a number from 0 to {self.dim - 1}, or one of the names "
            f"{', '.join(self.names[:_SHOWN])}{more}"
        )
