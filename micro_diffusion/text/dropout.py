"""Caption dropout, which trains the unconditional model for classifier-free guidance (Ho & Salimans 2022).

Legend: B batch, L caption tokens, D caption width.
"""

from __future__ import annotations

import torch

from micro_diffusion.batch import TextCondition


def drop_captions(text: TextCondition, probability: float, generator: torch.Generator | None = None) -> TextCondition:
    """Replace each caption by the null caption, all-zero tokens, with the given probability.

    Returns a new condition; `text` is left as it was, and so are the mask's rows, since a null caption looks the same
    under any mask that has a true entry. Tokens are replaced rather than multiplied by 0, so infinities go too.

    Args:
        text: tokens (B, L, D).
        probability: of each caption to be dropped, in [0, 1].
        generator: of the B uniform draws; on any device.

    Raises:
        ValueError: when the probability is outside [0, 1].
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"caption drop probability is {probability}; set it to a number from 0 to 1")
    device = text.tokens.device if generator is None else generator.device
    dropped = torch.rand(len(text.tokens), generator=generator, device=device) < probability
    return TextCondition(text.tokens.masked_fill(dropped.to(text.tokens.device)[:, None, None], 0), text.mask)
