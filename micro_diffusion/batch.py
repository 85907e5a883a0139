"""The vocabulary of a batch: what the loader yields, the objectives read and the image logger shows.

Legend: B batch, C latent channels, h w latent height and width, L caption tokens, D caption width.
"""

from __future__ import annotations

from typing import NamedTuple, TypedDict

from torch import Tensor
from typing_extensions import NotRequired


class TokenIds(NamedTuple):
    """Captions as a text encoder's numbered tokens.

    ids: (B, L) int64, padding included. mask: (B, L) bool, true up to and including end-of-text.
    """

    ids: Tensor
    mask: Tensor


class LatentBatch(TypedDict):
    """One collated batch of precomputed latents.

    latents: (B, C, h, w) float, already shifted and scaled by the autoencoder's constants.
    caption_tokens: (B, L, D) half precision; or caption_ids: (B, L) int64, where the data hold token ids alone.
    caption_mask: (B, L) bool, true up to and including end-of-text.
    caption: B strings, the captions themselves.
    key: B strings, the names of the images in their data set.
    repeated: (B,) bool, true for a sample that only fills up a rank of an evaluation, and is counted elsewhere.
    """

    latents: Tensor
    caption_tokens: NotRequired[Tensor]
    caption_ids: NotRequired[Tensor]
    caption_mask: Tensor
    caption: list[str]
    key: list[str]
    repeated: NotRequired[Tensor]


class ImageBatch(TypedDict):
    """One collated batch of images of one size.

    images: (B, 3, H, W) uint8.
    caption: B strings, the captions themselves.
    key: B strings, the names of the images in their data set.
    """

    images: Tensor
    caption: list[str]
    key: list[str]
