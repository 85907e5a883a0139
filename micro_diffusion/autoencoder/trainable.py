"""What a variational autoencoder offers to its training. Legend: B images, C latent channels, f downsampling factor."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class TrainableAutoencoder(Protocol):
    """An nn.Module that maps images to a diagonal Gaussian over latents (Kingma & Welling 2014), and latents to images.

    Attributes:
        channels: C.
        downsampling: f; a latent is H/f × W/f.
        shift: (C,) mean of the latents, a buffer that `measure_scale` sets.
        scaling: (C,) inverse standard deviation of the latents, likewise.
    """

    channels: int
    downsampling: int
    shift: Tensor
    scaling: Tensor

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight of the last convolution that makes pixels, at which gradients are compared."""
        ...

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) in [-1, 1] -> mean and log variance of the unscaled latents, (B, C, H/f, W/f) each."""
        ...

    def reconstruct(self, unscaled: Tensor) -> Tensor:
        """Latents (B, C, h, w) before shift and scaling -> (B, 3, h*f, w*f), about [-1, 1], not clamped."""
        ...

    def measure_scale(self, batches: Iterable[Tensor]) -> None:
        """Set shift and scaling so that the latents have mean 0 and std 1 per channel over batches (B, 3, H, W)."""
        ...

    def save(self, folder: str | Path) -> None:
        """Write the weights and what else its own loading needs into `folder`."""
        ...
