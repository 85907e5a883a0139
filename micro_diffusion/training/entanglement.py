"""The vector that a backbone with a class token learns to denoise with the image: what a frozen encoder sees in it.

Wu et al. 2025, "Representation Entanglement for Generation" (REG), arXiv 2507.01467.
Legend: B batch, C latent channels, h w latent cells, F width of a feature.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from micro_diffusion.bounds import PositiveFloat
from micro_diffusion.representation.representation import Representation


class Entanglement:
    """The mean over patches of an encoder's features, brought to mean 0 and the deviation of the latents.

    It is the class token of encoders that have none of their own. Like its encoder it is no module, so that no training
    finds its weights.

    Args:
        encoder: that sees the clean latents.
        deviation: of the vector's numbers; that of the latents, so that noise covers both alike.
    """

    def __init__(self, *, encoder: Representation, deviation: PositiveFloat = 1.0) -> None:
        self.encoder, self.deviation = encoder, deviation

    @property
    def features(self) -> int:
        """F."""
        return self.encoder.dim

    @property
    def frozen(self) -> list[nn.Module]:
        """The encoder's networks."""
        return self.encoder.frozen

    @torch.no_grad()
    def __call__(self, latents: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, C, h, w) clean, rows and columns of the backbone's patches -> (B, F) in fp32."""
        mean = self.encoder.features(latents, grid).float().mean(dim=1)
        return self.deviation * functional.layer_norm(mean, mean.shape[1:])
