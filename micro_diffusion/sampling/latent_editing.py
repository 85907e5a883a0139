"""Sharper and brighter images by a constant added to generated latents, as apapiu/transformer_latent_diffusion does.

It works for the latents of SDXL's autoencoder, whose first channel is about luminance and whose last one about texture.
Legend: B images, C latent channels, h w latent cells.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

BRIGHTNESS_CHANNEL, SHARPNESS_CHANNEL = 0, 3


class LatentEdit(NamedTuple):
    """What is added to a channel of the latents, in units of the scaled latents that the network makes; 0.1 is much.

    sharpness: to channel 3. brightness: to channel 0.
    """

    sharpness: float = 0.0
    brightness: float = 0.0

    def check(self, channels: int) -> None:
        """Raise ValueError for numbers that are not finite, and for latents of other than SDXL's 4 channels."""
        if not all(map(math.isfinite, self)):
            raise ValueError(f"sharpness is {self.sharpness} and brightness {self.brightness}; give finite numbers")
        if any(self) and channels != 4:
            raise ValueError(
                f"sharpness and brightness change SDXL's latents of 4 channels, but these have {channels}; leave them "
                "out"
            )

    def __call__(self, latents: Tensor) -> Tensor:
        """(B, 4, h, w) -> (B, 4, h, w), a new tensor where something is added."""
        if not any(self):
            return latents
        edited = latents.clone()
        edited[:, SHARPNESS_CHANNEL] += self.sharpness
        edited[:, BRIGHTNESS_CHANNEL] += self.brightness
        return edited


NO_EDIT = LatentEdit()
