"""Which of an image's captions a training step sees."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate

from micro_diffusion.data.keyed_random import uniform


class CaptionChoice:
    """Draws one of an image's captions, anew in every epoch.

    The draw follows from the seed, the epoch and the sample alone: a resumed run sees what the uninterrupted one would
    have seen, on any number of ranks and workers. A sample that comes several times in an epoch has one caption in it.

    Args:
        probabilities: of the captions in their order; those behind the last one are never drawn. None draws all alike.
        captions_per_image: how many there are.
        seed: any integer.

    Raises:
        ValueError: when there are more probabilities than captions, one is negative, or they do not sum to 1.
    """

    def __init__(self, probabilities: Sequence[float] | None, *, captions_per_image: int, seed: int) -> None:
        given = [1 / captions_per_image] * captions_per_image if probabilities is None else list(probabilities)
        if len(given) > captions_per_image:
            raise ValueError(
                f"caption_probabilities is {given}, but the data hold {captions_per_image} captions an image; set "
                "as many, or convert again with more source.captions"
            )
        if any(not 0 <= probability <= 1 for probability in given) or abs(sum(given) - 1) > 1e-3:
            raise ValueError(f"caption_probabilities is {given}; set it to numbers from 0 to 1 that sum to 1")
        self.seed = seed
        self._bounds = list(accumulate(given))[:-1]

    def draw(self, epoch: int, sample: int) -> int:
        """The number of a caption, counted from 0."""
        return bisect(self._bounds, uniform("caption", self.seed, epoch, sample)) if self._bounds else 0
