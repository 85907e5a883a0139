"""What a network is conditioned on: text tokens, a pooled token or a class, and an image with its own noise level.

Legend: B batch, L tokens, D token width, C' channels of a conditioning image, h w cells.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Condition(NamedTuple):
    """What a backbone is told of each sample besides its noise level.

    tokens: (B, L, D) float; all zero is the null condition. A caption has a row for each text token; a pooled caption,
        a class or nothing at all has one row.
    mask: (B, L) bool, true on rows that count, or None when every row does.
    image: (B, C', h, w) float, a conditioning image of the size of the network's input, or None for none.
    image_level: (B,) float, the noise std sigma that was added to that image, or None where there was none.
    """

    tokens: Tensor
    mask: Tensor | None = None
    image: Tensor | None = None
    image_level: Tensor | None = None

    def to(self, *args, **kwargs) -> Condition:
        """Move or cast tokens and image; mask and level follow in device only."""
        tokens = self.tokens.to(*args, **kwargs)
        return Condition(
            tokens,
            None if self.mask is None else self.mask.to(tokens.device),
            None if self.image is None else self.image.to(*args, **kwargs),
            None if self.image_level is None else self.image_level.to(tokens.device),
        )

    def null(self) -> Condition:
        """The unconditional counterpart: all tokens zero, the conditioning image as it is."""
        return self._replace(tokens=torch.zeros_like(self.tokens))

    def dropped(self, which: Tensor) -> Condition:
        """Some samples with the null condition, which trains guidance (Ho & Salimans 2022, arXiv 2207.12598).

        A null condition looks the same under any mask with a true entry, so the mask stays. Tokens are replaced rather
        than multiplied by 0, so that infinities go too.

        Args:
            which: (B,) bool, true for those to be replaced; on the device of the tokens.
        """
        return self._replace(tokens=self.tokens.masked_fill(which[:, None, None], 0))

    def after(self, other: Condition) -> Condition:
        """The B conditions of another and then these, as guidance asks for both in one call."""
        pairs = zip(other, self, strict=True)
        return Condition(*(None if a is None or b is None else torch.cat([a, b]) for a, b in pairs))  # pyright: ignore[reportArgumentType]

    def after_null(self) -> Condition:
        """B null conditions and then the B samples themselves."""
        return self.after(self.null())
