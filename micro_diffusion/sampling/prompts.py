"""What a run generates to show itself: in its image log, and when `generate` is given no prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence

from micro_diffusion.bounds import NonNegativeFloat, Seed


class Prompts:
    """Captions and how to generate their images.

    Args:
        captions: one image each.
        guidance_scale: 0 unconditional, 1 conditional, above 1 guided.
        seed: fixes the noise, so that images of several moments of a training can be compared.

    Raises:
        ValueError: when there are no captions, or the guidance is not finite.
    """

    def __init__(self, *, captions: Sequence[str], guidance_scale: NonNegativeFloat = 5.0, seed: Seed = 0) -> None:
        if not captions or isinstance(captions, str):
            raise ValueError(f"prompts.captions is {captions!r}; set it to a list of at least one caption")
        if not math.isfinite(guidance_scale):
            raise ValueError(f"prompts.guidance_scale is {guidance_scale}; set it to a finite number, such as 5")
        self.captions = list(captions)
        self.guidance_scale = guidance_scale
        self.seed = seed
