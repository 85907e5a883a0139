"""Pictures and captions to rows of MDS latents.

Legend: B pictures, C latent channels, H W height and width of a crop in pixels, f downsampling, L caption tokens,
D caption width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from micro_diffusion.data.images import ImageSample
from micro_diffusion.data.latent_statistics import LatentStatistics
from micro_diffusion.data.transforms import normalise

if TYPE_CHECKING:
    from micro_diffusion.autoencoder.autoencoder import Autoencoder
    from micro_diffusion.text.encoder import TextEncoder


class LatentEncoder:
    """Batches of pictures to rows of MDS latents.

    The draw of a picture's latents follows from the seed, the picture's key and the resolution alone.

    Args:
        sizes: (H, W) of the crops in pixels, by resolution.
        autoencoder: gives the latents.
        text_encoder: gives the captions' features.
        sample: draw latents from the posterior rather than take its mean.
        seed: of those draws.

    Raises:
        ValueError: when a resolution is no multiple of the downsampling; later, when an encoder gives numbers that
            are not finite in half precision.
    """

    def __init__(
        self,
        sizes: Mapping[int, tuple[int, int]],
        autoencoder: Autoencoder,
        text_encoder: TextEncoder,
        *,
        sample: bool,
        seed: int,
    ) -> None:
        for resolution, size in sizes.items():
            if resolution < 1 or any(side % autoencoder.downsampling for side in size):
                raise ValueError(
                    f"resolution {resolution} cannot be encoded; set resolutions to multiples of "
                    f"{autoencoder.downsampling}, the downsampling of {autoencoder.name}"
                )
        if not sizes:
            raise ValueError("resolutions is empty; set it to at least one number of pixels, such as [256]")
        self.resolutions = list(sizes)
        self.latent_sizes = {r: [side // autoencoder.downsampling for side in size] for r, size in sizes.items()}
        self.autoencoder, self.text_encoder = autoencoder, text_encoder
        self.sample, self.seed = sample, seed

    def description(self) -> dict[str, Any]:
        """The encoders and the form of their results, as `LatentMetadata` reads it."""
        return {
            "resolutions": self.resolutions,
            "latent_sizes": {str(resolution): size for resolution, size in self.latent_sizes.items()},
            "autoencoder": self.autoencoder.name,
            "channels": self.autoencoder.channels,
            "downsampling": self.autoencoder.downsampling,
            "text_encoder": self.text_encoder.name,
            "caption_dim": self.text_encoder.dim,
            "caption_length": self.text_encoder.max_length,
            "encoders": {
                "autoencoder": self.autoencoder.provenance,
                "text_encoder": self.text_encoder.provenance,
            },
        }

    def columns(self) -> dict[str, str]:
        """The columns of MDS latents."""
        channels = self.autoencoder.channels
        latents = {f"latents_{r}": f"ndarray:float16:{channels},{h},{w}" for r, (h, w) in self.latent_sizes.items()}
        tokens = f"ndarray:float16:{self.text_encoder.max_length},{self.text_encoder.dim}"
        return {**latents, "caption_tokens": tokens, "caption_length": "int", "caption": "str", "key": "str"}

    @torch.no_grad()
    def rows(self, batch: Sequence[ImageSample], statistics: LatentStatistics) -> Iterator[dict[str, Any]]:
        """Encode B pictures and their captions, and count the latents."""
        if not batch:
            return
        columns = {
            f"latents_{resolution}": self._encode(batch, resolution, statistics) for resolution in self.resolutions
        }
        tokens, lengths = self._encode_captions([item.caption for item in batch])
        for i, item in enumerate(batch):
            text = {"caption_tokens": tokens[i], "caption_length": lengths[i], "caption": item.caption, "key": item.key}
            yield {**{name: column[i] for name, column in columns.items()}, **text}

    def _encode(self, batch: Sequence[ImageSample], resolution: int, statistics: LatentStatistics) -> np.ndarray:
        """(B, C, H/f, W/f) float16."""
        pictures = normalise(torch.stack([item.crops[resolution] for item in batch]))
        draws = [_generator(self.seed, item.key, resolution) for item in batch] if self.sample else None
        latents = self.autoencoder.encode(pictures, generator=draws, sample=self.sample).float().cpu()
        stored = _half(
            latents,
            f"latents at {resolution} px by the autoencoder {self.autoencoder.name}",
            [item.key for item in batch],
        )
        statistics.add(resolution, latents, enlarged=sum(resolution in item.enlarged for item in batch))
        return stored

    def _encode_captions(self, captions: Sequence[str]) -> tuple[np.ndarray, list[int]]:
        """(B, L, D) float16 and the number of rows of each; equal captions are encoded once."""
        distinct = list(dict.fromkeys(captions))
        tokens, mask = self.text_encoder.encode(distinct)
        places = [distinct.index(caption) for caption in captions]
        stored = _half(tokens.float().cpu(), f"features by the text encoder {self.text_encoder.name}", distinct)
        if mask is None:
            return stored[places], [tokens.shape[1]] * len(captions)
        lengths = mask.sum(dim=1).cpu()
        if not torch.equal(mask.cpu(), torch.arange(mask.shape[1]) < lengths[:, None]):
            raise ValueError(
                f"the mask of {self.text_encoder.name} has gaps; only padding after the caption can be stored"
            )
        return stored[places], [int(lengths[place]) for place in places]


def _generator(seed: int, key: str, resolution: int) -> torch.Generator:
    """Of the draws for one picture."""
    digest = hashlib.blake2b(f"{seed}/{resolution}/{key}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))


def _half(values: Tensor, what: str, names: Sequence[str]) -> np.ndarray:
    """float16, as it is stored. Raises ValueError where a number is or becomes non-finite."""
    stored = values.half()
    finite = stored.isfinite().flatten(1).all(dim=1)
    if not finite.all():
        raise ValueError(
            f"the {what} are not finite in float16, first for {names[int(finite.int().argmin())]!r}; use that encoder "
            "in a wider floating-point type, such as float32"
        )
    return stored.numpy()
