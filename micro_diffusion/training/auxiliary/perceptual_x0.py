"""A perceptual loss on the predicted clean image, where the noise is low enough for it to show something.

Ma et al. 2026, "PixelGen", arXiv 2602.02493; an earlier one is Lin & Yang 2024, arXiv 2401.00110.
Legend: B batch, C latent channels, h w latent cells.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from micro_diffusion.autoencoder.autoencoder import Autoencoder
from micro_diffusion.autoencoder.gradients import checked, networks_of
from micro_diffusion.autoencoder.perceptual import Network, Perceptual
from micro_diffusion.bounds import Fraction, PositiveFloat
from micro_diffusion.representation.representation import Representation, is_counted_only, similarity
from micro_diffusion.training.auxiliary.auxiliary import Auxiliary, Step


@runtime_checkable
class Distance(Protocol):
    """How different two latents look. No module, so that no training finds its weights, which are frozen."""

    frozen: list[nn.Module]

    def __call__(self, ours: Tensor, theirs: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, C, h, w) each, rows and columns of the backbone's patches -> (B,). Gradients reach `ours` alone."""
        ...


class FeatureDistance:
    """1 − the cosine similarity of patches as a frozen encoder sees them, as PixelGen has it of DINO's.

    Args:
        encoder: the representation.
    """

    def __init__(self, *, encoder: Representation) -> None:
        self.encoder, self.frozen = encoder, encoder.frozen

    def __call__(self, ours: Tensor, theirs: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, C, h, w) each -> (B,)."""
        with torch.no_grad():
            features = self.encoder.features(theirs, grid)
        return 1 - similarity(self.encoder.features(ours, grid), features)


class DecodedDistance:
    """LPIPS of the images that an autoencoder makes of latents.

    Args:
        autoencoder: that the latents were made with.
        network: whose features LPIPS compares.
        path: file with the weights of torchvision's network; None for the place where torchvision keeps it.

    Raises:
        FileNotFoundError: when the weights are not there.
        ValueError: when the autoencoder decodes without gradients.
    """

    def __init__(self, *, autoencoder: Autoencoder, network: Network = "vgg", path: str | None = None) -> None:
        self.autoencoder = checked(autoencoder)
        self.perceptual = Perceptual(network=network, path=path)
        if is_counted_only():
            self.perceptual.load_without_weights()
        self.frozen: list[nn.Module] = [*networks_of(autoencoder), self.perceptual.load()]

    def __call__(self, ours: Tensor, theirs: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, C, h, w) each -> (B,).

        Raises ValueError for images that LPIPS's network does not take.
        """
        self.autoencoder.to(ours.device)
        with torch.no_grad():
            originals = self.autoencoder.decode_with_gradient(theirs)
        if min(originals.shape[-2:]) < self.perceptual.smallest:
            raise ValueError(
                f"images of {originals.shape[-2]}×{originals.shape[-1]} pixels are too small for LPIPS with "
                f"{self.perceptual.kind}, which takes {self.perceptual.smallest} or more; leave the loss out"
            )
        return self.perceptual(self.autoencoder.decode_with_gradient(ours), originals)


class PerceptualX0(Auxiliary):
    """The distance of the predicted x0 from the clean latents, of samples below a noise level; 0 of the others.

    Masked patches are filled with the clean ones, so that only what was predicted is compared. All samples are
    computed, also those that do not count: which they are, a GPU would have to be waited for.

    Args:
        distance: `FeatureDistance` or `DecodedDistance`.
        below: sigma, noise std in latent units, from which on nothing is compared.
        weight: of the mean over all samples, also those that do not count.
        until: share of the training after which it ends.
    """

    def __init__(
        self, *, distance: Distance, below: PositiveFloat, weight: PositiveFloat, until: Fraction = 1.0
    ) -> None:
        super().__init__(weight=weight, until=until)
        self.distance, self.below = distance, below

    @property
    def frozen(self) -> list[nn.Module]:
        """The distance's."""
        return self.distance.frozen

    def forward(self, step: Step) -> Tensor:
        """The mean over the batch, ()."""
        seen = step.denoised if step.visible is None else step.denoised.where(step.visible, step.latents)
        distances = self.distance(seen, step.latents, step.grid)
        return (distances * (step.sigma < self.below)).mean()
