"""No autoencoder at all: the diffusion model works on pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from micro_diffusion.autoencoder.autoencoder import Generators
from micro_diffusion.bounds import PositiveFloat, PositiveInt


class IdentityAutoencoder:
    """Latents are the images themselves, in [-1, 1], divided by `std` to bring them nearer to unit variance.

    Args:
        channels: must be 3; stated so that a config can refer to it as to that of any other autoencoder.
        downsampling: must be 1.
        std: of the pixels in [-1, 1]; 1 leaves them as they are.
    """

    def __init__(self, *, channels: PositiveInt = 3, downsampling: PositiveInt = 1, std: PositiveFloat = 1.0) -> None:
        if (channels, downsampling) != (3, 1):
            raise ValueError(
                f"the identity autoencoder has 3 channels and downsampling 1, but the config says {channels} and "
                f"{downsampling}; set autoencoder.channels=3 and autoencoder.downsampling=1"
            )
        self.name = "identity" if std == 1 else f"identity-std{std:g}"
        self.provenance = {"std": std}
        self.channels = channels
        self.downsampling = downsampling
        self.std = std

    def encode(self, images: Tensor, *, generator: Generators = None, sample: bool = True) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> the same divided by `std`; there is nothing to sample."""
        return images / self.std

    def decode(self, latents: Tensor) -> Tensor:
        """(B, 3, H, W) -> the same times `std`, clamped to [-1, 1]."""
        return self.decode_with_gradient(latents).clamp(-1, 1)

    def decode_with_gradient(self, latents: Tensor) -> Tensor:
        """The same, not clamped, for losses on images."""
        return latents * self.std

    def to(self, device: torch.device) -> None:
        """There are no weights to move."""
