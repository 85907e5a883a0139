"""Caption dropout, which trains the unconditional model for classifier-free guidance (Ho & Salimans 2022).

Legend: B batch, L caption tokens, D caption width.
"""

from __future__ import annotations

from torch import Tensor

from micro_diffusion.batch import TextCondition


def drop_captions(text: TextCondition, probability: float, uniform: Tensor) -> TextCondition:
    """Replace each caption by the null caption, all-zero tokens, with the given probability.

    Returns a new condition; `text` is left as it was, and so are the mask's rows, since a null caption looks the same
    under any mask that has a true entry. Tokens are replaced rather than multiplied by 0, so infinities go too.

    Args:
        text: tokens (B, L, D).
        probability: of each caption to be dropped, in [0, 1].
        uniform: (B,) drawn from [0, 1); a caption is dropped where this lies below the probability.

    Raises:
        ValueError: when the probability is outside [0, 1].
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"caption drop probability is {probability}; set it to a number from 0 to 1")
    dropped = uniform.to(text.tokens.device) < probability
    return TextCondition(text.tokens.masked_fill(dropped[:, None, None], 0), text.mask)
