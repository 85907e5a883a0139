"""Caption dropout, which trains the unconditional model for classifier-free guidance (Ho & Salimans 2022).

Legend: B batch, L caption tokens, D caption width.
"""

from __future__ import annotations

from torch import Tensor

from micro_diffusion.batch import TextCondition


def drop_captions(text: TextCondition, dropped: Tensor) -> TextCondition:
    """Replace some captions by the null caption, all-zero tokens.

    Returns a new condition; `text` is left as it was, and so are the mask's rows, since a null caption looks the same
    under any mask that has a true entry. Tokens are replaced rather than multiplied by 0, so infinities go too.

    Args:
        text: tokens (B, L, D).
        dropped: (B,) bool, true for those to be replaced; on the device of the tokens.
    """
    return TextCondition(text.tokens.masked_fill(dropped[:, None, None], 0), text.mask)
