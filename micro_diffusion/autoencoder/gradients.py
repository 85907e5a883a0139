"""Autoencoders that losses look through. Legend: B images, C latent channels, h w latent cells, f downsampling."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from micro_diffusion.autoencoder.autoencoder import Autoencoder


@runtime_checkable
class DecodesWithGradient(Autoencoder, Protocol):
    """An autoencoder whose decoder hands gradients on to the latents."""

    def decode_with_gradient(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) as made by `encode` -> (B, 3, h·f, w·f), about [-1, 1], not clamped."""
        ...


def checked(autoencoder: Autoencoder) -> DecodesWithGradient:
    """Raise ValueError for an autoencoder that hands no gradients on."""
    if not isinstance(autoencoder, DecodesWithGradient):
        raise ValueError(f"{type(autoencoder).__name__} decodes without gradients; choose another autoencoder")
    return autoencoder


def networks_of(autoencoder: Autoencoder) -> list[nn.Module]:
    """The modules that an autoencoder is or holds."""
    parts = (autoencoder, getattr(autoencoder, "model", None))
    return [part for part in parts if isinstance(part, nn.Module)]
