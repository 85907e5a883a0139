"""What every training objective offers. Legend: B batch, C latent channels, T patches, K kept patches."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from micro_diffusion.condition import Condition
from micro_diffusion.diffusion.denoiser import Denoiser

if TYPE_CHECKING:
    from micro_diffusion.backbone.backbone import Backbone


class Loss(NamedTuple):
    """per_sample: (B,), the objective's weighted loss of each sample. sigma: (B,), its noise std in latent units."""

    per_sample: Tensor
    sigma: Tensor


@runtime_checkable
class Objective(Protocol):
    """A loss to train a backbone with, and the denoiser that the trained backbone then is.

    Attributes:
        sigma_min, sigma_max: the noise levels between which its denoiser is meant to be sampled.
    """

    sigma_min: float
    sigma_max: float

    def loss(
        self,
        backbone: Backbone,
        latents: Tensor,
        text: Condition,
        *,
        level_normal: Tensor,
        noise: Tensor,
        keep: Tensor | None = None,
        loss_mask: Tensor | None = None,
    ) -> Loss:
        """latents (B, C, h, w), level_normal (B,) and noise (B, C, h, w) standard normal draws, keep (B, K) or None.

        loss_mask: (B, 1, h, w) bool, true on the cells whose loss counts, or None for all.

        The draws come from the caller, so that they can follow from (seed, step, rank) and be fixed in evaluation.
        """
        ...

    def level(self, sigma: Tensor) -> Tensor:
        """What a backbone is told of the noise levels sigma (S,) -> (S,)."""
        ...

    def denoiser(self, backbone: Backbone, text: Condition) -> Denoiser:
        """The backbone, conditioned on `text`, as a Denoiser."""
        ...
