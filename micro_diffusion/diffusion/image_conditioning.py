"""What every conditioning by an image offers: a smaller version of what is generated, or what is known of it.

Legend: B batch, C latent channels, C' channels of a conditioning image, h w latent cells, H W pixels, f downsampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from micro_diffusion.diffusion.denoiser import Denoiser


class RandomNumbers(Protocol):
    """Random numbers of a batch of B samples, as training draws them (training/seeded_random.py).

    Attributes:
        shared: in the same state for every part of a batch, for what all its samples have in common.
    """

    @property
    def shared(self) -> torch.Generator:
        """As above."""
        ...

    def normal(self, *shape: int) -> Tensor:
        """(B, *shape) standard normal."""
        ...

    def uniform(self, *shape: int) -> Tensor:
        """(B, *shape) uniform in [0, 1)."""
        ...


class ImageInTraining(NamedTuple):
    """What a training step knows of each sample.

    image: (B, C', h, w). level: (B,), noise std sigma of that image, or None where the network is not told.
    loss_mask: (B, 1, h, w) bool, true on the cells whose loss counts, or None for all.
    """

    image: Tensor
    level: Tensor | None = None
    loss_mask: Tensor | None = None


class ImageInSampling(NamedTuple):
    """What sampling knows of each sample.

    image, level: as in training. known: the latents (B, C, h, w) of which some cells are known, and `unknown`
    (B, 1, h, w) bool which are not; None where none is.
    """

    image: Tensor
    level: Tensor | None = None
    known: Tensor | None = None
    unknown: Tensor | None = None

    def keeps_known(self, denoiser: Denoiser) -> Denoiser:
        """The denoiser whose image has the known cells as they are."""
        known, unknown = self.known, self.unknown
        if known is None or unknown is None:
            return denoiser
        return lambda x, sigma: torch.where(unknown, denoiser(x, sigma), known)


@runtime_checkable
class ImageConditioner(Protocol):
    """Makes conditioning images, in training of the clean latents, in sampling of an image that is given.

    Attributes:
        tells_level: whether the images have a noise level, of which the network is told.
    """

    tells_level: bool

    def channels(self, latent_channels: int) -> int:
        """C -> C'."""
        ...

    def in_training(self, clean: Tensor, draws: RandomNumbers) -> ImageInTraining:
        """Clean latents (B, C, h, w) -> the image that a network is to make them from."""
        ...

    def in_sampling(
        self, given: Tensor, size: tuple[int, int], generators: Sequence[torch.Generator], unknown: Tensor | None = None
    ) -> ImageInSampling:
        """The latents (B, C, …) of an image that is given -> what latents of `size` (h, w) are generated from.

        generators: one for each sample, on the CPU.
        unknown: (B, 1, h, w) bool, true on the cells to be generated.

        Raises:
            ValueError: when the given latents are of another size than they should be, or `unknown` is missing or not
                wanted.
        """
        ...

    def given_pixels(self, size: tuple[int, int]) -> tuple[int, int]:
        """(H, W) of the images that are generated -> that of the image that is given for them."""
        ...

    def example(self, images: Tensor) -> dict[str, Any]:
        """Whole images uint8 (B, 3, H, W) -> the arguments of `Pipeline.generate` that have them made again."""
        ...


def check_given(given: Tensor, size: tuple[int, int], what: str) -> None:
    """Raise ValueError when the latents (B, C, h, w) of a given image are not of the size that they should be."""
    if tuple(given.shape[2:]) != size:
        there, wanted = (f"{height}×{width}" for height, width in (given.shape[2:], size))
        raise ValueError(f"{what} has {there} cells, but {wanted} are needed; resize it, or set another resolution")
