"""A curve through points, which the parts of objectives look values up in."""

from __future__ import annotations

import torch
from torch import Tensor


class Curve:
    """Straight lines between points; beyond both ends it stays at the value of the end.

    Args:
        x: (N,) float64, rising.
        y: (N,) float64.
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self._points = {x.device: (x, y)}

    def __call__(self, x: Tensor) -> Tensor:
        """(S,) or () of any floating-point type -> float64 of the same shape."""
        xs, ys = self._points_on(x.device)
        x = x.double().clamp(xs[0], xs[-1])
        right = torch.searchsorted(xs, x.contiguous()).clamp(1, len(xs) - 1)
        share = (x - xs[right - 1]) / (xs[right] - xs[right - 1])
        return torch.lerp(ys[right - 1], ys[right], share)

    def _points_on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The points in the memory of a device, where they stay: a copy at each call would be waited for."""
        if device not in self._points:
            x, y = next(iter(self._points.values()))
            self._points[device] = x.to(device), y.to(device)
        return self._points[device]
