"""A text encoder without weights: hashed words with those before them, for experiments on a small machine.

Legend: B captions, L tokens, D width.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from functools import lru_cache
from unicodedata import category

import torch
from torch import Tensor

from micro_diffusion.bounds import PositiveInt
from micro_diffusion.condition import Condition
from micro_diffusion.text.truncation import warn_of_cut

_WORD = re.compile(r"[^\W_]+|[^\w\s\x00-\x7f]")
_START, _END = "<start>", "<end>"  # no word of a caption contains "<"
_POSITION_AMPLITUDE = 0.5


class TinyTextEncoder:
    """Every word is a fixed random vector of signs; a token is its word and the words before it, those of a window.

    Emoji and other symbols beyond ASCII are words of one character. Punctuation and the symbols of ASCII are left out.
    A window binds neighbours without any attention or training: one of three words "small red circle", one of six "a
    small red circle above" what comes next, so that it is told which of two objects is meant. All entries have about
    unit variance. The same caption gives the same features on every machine and in every version of the
    libraries: the signs are the bits of a cryptographic hash, not draws of a random generator.

    Args:
        dim: D, a multiple of the window; an equal part for each of its words.
        max_length: L, tokens of a caption, end-of-text included.
        window: words of a token, itself included.
    """

    def __init__(self, *, dim: PositiveInt = 192, max_length: PositiveInt = 24, window: PositiveInt = 3) -> None:
        if dim % window:
            raise ValueError(f"dim of the tiny text encoder is {dim}; set it to a positive multiple of window={window}")
        self.name = f"tiny-{dim}" if window == 3 else f"tiny-{dim}-{window}"  # three words were all that there were
        self.provenance = {"dim": dim, "max_length": max_length, "window": window}
        self.dim = dim
        self.max_length = max_length
        self.window = window
        self._positions = _POSITION_AMPLITUDE * sinusoids(max_length, dim)

    def encode(self, captions: Sequence[str]) -> Condition:
        """B captions -> tokens (B, L, D), zero after end-of-text, and mask (B, L)."""
        tokens = torch.zeros(len(captions), self.max_length, self.dim)
        mask = torch.zeros(len(captions), self.max_length, dtype=torch.bool)
        for row, caption in enumerate(captions):
            features = self._features(self._words(caption))
            tokens[row, : len(features)] = features
            mask[row, : len(features)] = True
        return Condition(tokens, mask)

    def to(self, device: torch.device) -> None:
        """There are no weights to move."""

    def _words(self, caption: str) -> list[str]:
        """Lower-cased words and symbols of the caption that fit before end-of-text."""
        words = [word for word in _WORD.findall(caption.lower()) if word.isalnum() or category(word).startswith("S")]
        fitting = self.max_length - 1
        if len(words) > fitting:
            warn_of_cut(caption, " ".join(words[fitting:]), self.max_length)
        return words[:fitting]

    def _features(self, words: list[str]) -> Tensor:
        """N words -> (N + 1, D), the last row for end-of-text."""
        padded = [*[_START] * (self.window - 1), *words, _END]
        signs = torch.stack([word_signs(word, self.dim // self.window) for word in padded])
        windows = signs.unfold(0, self.window, 1).movedim(2, 1).flip(1).flatten(1)  # each word before its predecessors
        return (windows + self._positions[: len(windows)]) / math.sqrt(1 + _POSITION_AMPLITUDE**2 / 2)


@lru_cache(maxsize=65536)
def word_signs(word: str, size: int) -> Tensor:
    """The first `size` bits of SHAKE-256 of the word, as a float vector (size,) of -1 and +1."""
    digest = hashlib.shake_256(word.encode()).digest(math.ceil(size / 8))
    return torch.tensor([1.0 if digest[bit // 8] >> bit % 8 & 1 else -1.0 for bit in range(size)])


def sinusoids(length: int, size: int) -> Tensor:
    """Sine and cosine of the position at geometrically falling frequencies (Vaswani et al. 2017) -> (length, size)."""
    half = math.ceil(size / 2)
    angles = torch.arange(length)[:, None] * torch.logspace(0, -3, half)
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :size]
