"""Images and captions to rows of MDS latents.

Legend: B images, C latent channels, H W height and width of a crop in pixels, f downsampling, L caption tokens,
D caption width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from micro_diffusion.data.format.columns import Entries, describe
from micro_diffusion.data.format.quantisation import check_finite
from micro_diffusion.data.format.row_format import RowFormat
from micro_diffusion.data.image.transforms import normalise
from micro_diffusion.data.keyed_random import whole_number
from micro_diffusion.data.prepare.latent_statistics import LatentStatistics
from micro_diffusion.data.stream.images import ImageSample

if TYPE_CHECKING:
    from micro_diffusion.autoencoder.autoencoder import Autoencoder
    from micro_diffusion.data.format.caption_formats import CaptionFormat
    from micro_diffusion.data.format.latent_formats import LatentFormat
    from micro_diffusion.text.encoder import TextEncoder


class LatentEncoder:
    """Batches of images to rows of MDS latents.

    The draw of an image's latents follows from the seed, the image's key and the resolution alone.

    Args:
        sizes: (H, W) of the crops in pixels, by resolution.
        autoencoder: gives the latents.
        text_encoder: gives the captions' features.
        latent_format: how latents are stored.
        caption_format: how captions are stored.
        captions_per_image: how many captions each image has.
        sample: draw latents from the posterior rather than take its mean.
        seed: of those draws.

    Raises:
        ValueError: when a resolution is no multiple of the downsampling, or the autoencoder was never trained.
    """

    def __init__(
        self,
        sizes: Mapping[int, tuple[int, int]],
        autoencoder: Autoencoder,
        text_encoder: TextEncoder,
        *,
        latent_format: LatentFormat,
        caption_format: CaptionFormat,
        captions_per_image: int,
        sample: bool,
        seed: int,
    ) -> None:
        if isinstance(autoencoder, nn.Module) and any(weight.requires_grad for weight in autoencoder.parameters()):
            raise ValueError(
                f"the autoencoder {autoencoder.name} is one to train; set autoencoder=bundled and autoencoder.path to "
                "the autoencoder folder of a training's run folder"
            )
        for resolution, size in sizes.items():
            if resolution < 1 or any(side % autoencoder.downsampling for side in size):
                raise ValueError(
                    f"resolution {resolution} cannot be encoded; set resolutions to multiples of "
                    f"{autoencoder.downsampling}, the downsampling of {autoencoder.name}"
                )
        if not sizes:
            raise ValueError("resolutions is empty; set it to at least one number of pixels, such as [256]")
        self.resolutions = list(sizes)
        self.latent_sizes = {
            r: (h // autoencoder.downsampling, w // autoencoder.downsampling) for r, (h, w) in sizes.items()
        }
        self.autoencoder, self.text_encoder = autoencoder, text_encoder
        self._autoencoder_name = autoencoder.name  # of a digest of all weights, hence not asked for with every batch
        self.sample, self.seed = sample, seed
        self.row_format = RowFormat(
            latents=latent_format,
            captions=caption_format,
            channels=autoencoder.channels,
            latent_sizes=self.latent_sizes,
            caption_length=text_encoder.max_length,
            caption_dim=text_encoder.dim,
            captions_per_image=captions_per_image,
        )

    def description(self) -> dict[str, Any]:
        """The encoders and the form of their results, as `LatentMetadata` reads it."""
        return {
            "resolutions": self.resolutions,
            "latent_sizes": {str(resolution): size for resolution, size in self.latent_sizes.items()},
            "autoencoder": self._autoencoder_name,
            "channels": self.autoencoder.channels,
            "downsampling": self.autoencoder.downsampling,
            "text_encoder": self.text_encoder.name,
            "caption_dim": self.text_encoder.dim,
            "caption_length": self.text_encoder.max_length,
            "encoders": {
                "autoencoder": self.autoencoder.provenance,
                "text_encoder": self.text_encoder.provenance,
            },
            "latent_format": describe(self.row_format.latents),
            "caption_format": describe(self.row_format.captions),
        }

    def columns(self) -> dict[str, str]:
        """The columns of MDS latents."""
        return self.row_format.columns()

    @torch.no_grad()
    def rows(self, batch: Sequence[ImageSample], statistics: LatentStatistics) -> Iterator[dict[str, Any]]:
        """Encode B images and their captions, and count the latents.

        Raises:
            ValueError: when an image has more or fewer captions than the rows have columns for, or an encoder gives
                numbers that are not finite in half precision.
        """
        if not batch:
            return
        each = self.row_format.captions_per_image
        for item in batch:
            if len(item.captions) != each:
                raise ValueError(
                    f"image {item.key} has {len(item.captions)} captions, others {each}; convert again, with as many "
                    "for each"
                )
        columns: dict[str, Entries] = {}
        for resolution in self.resolutions:
            latents = self._encode(batch, resolution, statistics)
            columns |= self.row_format.latents.encode(f"latents_{resolution}", latents)
        captions = [caption for item in batch for caption in item.captions]
        columns |= self.row_format.caption_columns(self._encode_captions(captions))
        for i, item in enumerate(batch):
            yield {**{name: column[i] for name, column in columns.items()}, "key": item.key}

    def _encode(self, batch: Sequence[ImageSample], resolution: int, statistics: LatentStatistics) -> np.ndarray:
        """(B, C, H/f, W/f) float32."""
        crops = normalise(torch.stack([item.crops[resolution] for item in batch]))
        draws = [_generator(self.seed, item.key, resolution) for item in batch] if self.sample else None
        latents = self.autoencoder.encode(crops, generator=draws, sample=self.sample).float().cpu()
        what = f"latents at {resolution} px by the autoencoder {self._autoencoder_name}"
        check_finite(latents, what, [item.key for item in batch])
        statistics.add(resolution, latents, enlarged=sum(resolution in item.enlarged for item in batch))
        return latents.numpy()

    def _encode_captions(self, captions: Sequence[str]) -> dict[str, Entries]:
        """An entry of each column for each caption; equal captions are encoded once."""
        distinct = list(dict.fromkeys(captions))
        places = [distinct.index(caption) for caption in captions]
        stored = self.row_format.captions.encode(self.text_encoder, distinct)
        return {
            "caption": captions,
            **{name: [entries[place] for place in places] for name, entries in stored.items()},
        }


def _generator(seed: int, key: str, resolution: int) -> torch.Generator:
    """Of the draws for one image."""
    return torch.Generator().manual_seed(whole_number(seed, resolution, key))
