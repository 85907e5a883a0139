"""What every frozen encoder offers that others learn from.

Legend: B images, C latent channels, h w latent cells, T patches, F width of a feature.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional


@runtime_checkable
class Representation(Protocol):
    """Clean latents to features of their patches. Its weights are frozen; gradients reach the latents.

    It is no module, so that no training finds its weights: they are in no checkpoint, average or exported file.

    Attributes:
        dim: F.
        frozen: its networks.
    """

    dim: int
    frozen: list[nn.Module]

    def features(self, latents: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, C, h, w), (rows, columns) of the patches that are asked for -> (B, rows·columns, F), row by row."""
        ...


def is_counted_only() -> bool:
    """Whether networks are built on the meta device, where they have no weights and cost nothing to count."""
    return torch.empty(0).is_meta


def regridded(features: Tensor, own: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """(B, T, F) on a grid of its own -> on another one: the mean of the patches that each covers, or the nearest."""
    if own == grid:
        return features
    image = features.transpose(1, 2).unflatten(2, own)
    return functional.adaptive_avg_pool2d(image, grid).flatten(2).transpose(1, 2)


def similarity(ours: Tensor, theirs: Tensor) -> Tensor:
    """(B, T, F) each -> the cosine similarity of each image's features, averaged over its patches, (B,)."""
    return functional.cosine_similarity(ours.float(), theirs.float(), dim=-1).mean(dim=1)
