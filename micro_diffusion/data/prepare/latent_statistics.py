"""What is to be known of all latents together, counted part by part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from torch import Tensor


class LatentStatistics:
    """Moments of latent entries and enlarged images, by resolution, and images that the crop does not take.

    Parts are counted apart and added in order, so that the sums do not depend on who counted which.
    """

    def __init__(self) -> None:
        self.enlarged: Counter[str] = Counter()
        self.other_shapes = 0
        self._moments: dict[str, np.ndarray] = {}  # count, sum, sum of squares

    def add(self, resolution: int, latents: Tensor, *, enlarged: int) -> None:
        """Count a batch of latents, `enlarged` of them from images smaller than the resolution."""
        values = latents.double()
        moments = np.array([values.numel(), values.sum().item(), values.square().sum().item()])
        self._moments[str(resolution)] = self._moments.get(str(resolution), 0) + moments
        if enlarged:
            self.enlarged[str(resolution)] += enlarged

    def as_json(self) -> dict[str, Any]:
        """For `merged`."""
        return {
            "enlarged": dict(self.enlarged),
            "other_shapes": self.other_shapes,
            "moments": {resolution: moments.tolist() for resolution, moments in self._moments.items()},
        }

    @classmethod
    def merged(cls, parts: Iterable[Mapping[str, Any]]) -> LatentStatistics:
        """The statistics of all parts together."""
        total = cls()
        for part in parts:
            total.enlarged.update(part["enlarged"])
            total.other_shapes += part.get("other_shapes", 0)  # parts of earlier versions did not count them
            for resolution, moments in part["moments"].items():
                total._moments[resolution] = total._moments.get(resolution, 0) + np.array(moments)
        return total

    def std(self) -> dict[str, float]:
        """Standard deviation of all latent entries, by resolution."""
        return {
            resolution: float(np.sqrt(squares / count - (total / count) ** 2))
            for resolution, (count, total, squares) in self._moments.items()
        }
