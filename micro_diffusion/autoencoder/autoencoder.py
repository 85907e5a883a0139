"""What every autoencoder offers. Legend: B images, C latent channels, f downsampling factor."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

Generators: TypeAlias = torch.Generator | list[torch.Generator] | None


@runtime_checkable
class Autoencoder(Protocol):
    """Images to latents of about unit variance, and back; frozen when used by a diffusion model.

    Attributes:
        name: says which weights these are; stored beside the latents that they made.
        provenance: which weights these are and how they are used, in JSON values: where they are from, `digest` of
            their values, dtype and scaling.
        channels: C, latent channels.
        downsampling: f; a latent is H/f × W/f.
    """

    name: str
    provenance: dict[str, Any]
    channels: int
    downsampling: int

    def encode(self, images: Tensor, *, generator: Generators = None, sample: bool = True) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, C, H/f, W/f), shifted and scaled: (z - shift) * scaling.

        sample: draw from the posterior (with `generator`) rather than take its mean.
        generator: one for the batch, or a list of one for each image, whose draws then do not depend on the others.
        Raises ValueError when H or W is no multiple of f.
        """
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) as made by `encode` -> (B, 3, h*f, w*f), clamped to [-1, 1]."""
        ...

    def to(self, device: torch.device) -> object:
        """Move the weights, if there are any."""
        ...


def unit_noise(like: Tensor, generator: Generators) -> Tensor:
    """Normal draws of the shape (B, ...), type and device of a tensor, made where the generator is."""
    if isinstance(generator, list):
        return torch.cat([unit_noise(row, one) for row, one in zip(like.split(1), generator, strict=True)])
    device = like.device if generator is None else generator.device
    return torch.randn(like.shape, generator=generator, device=device, dtype=like.dtype).to(like.device)


def check_divisible(images: Tensor, downsampling: int) -> None:
    """Raise ValueError when the images (B, 3, H, W) do not divide into latent cells of `downsampling` pixels."""
    height, width = images.shape[-2:]
    if height % downsampling or width % downsampling:
        raise ValueError(
            f"images of {height}×{width} pixels do not divide by the autoencoder's downsampling factor; "
            f"make height and width multiples of {downsampling}"
        )


def check_stated(autoencoder: str, quantity: str, stated: int | None, actual: int) -> None:
    """Raise ValueError when a config states another `quantity` than the weights have; None states nothing."""
    if stated is not None and stated != actual:
        raise ValueError(
            f"autoencoder.{quantity} is {stated}, but {autoencoder} has {actual}; "
            f"set autoencoder.{quantity}={actual} and precompute again"
        )
