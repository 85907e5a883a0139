"""REPA: hidden tokens of the backbone, projected, agree with what a frozen encoder sees in the clean image.

Yu et al. 2024, "Representation alignment for generation", arXiv 2410.06940.
Legend: B batch, T patches, K kept patches, D width of the backbone, F width of a feature.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from micro_diffusion.backbone.backbone import Backbone
from micro_diffusion.backbone.class_token import class_token_of
from micro_diffusion.backbone.masking import keep_tokens
from micro_diffusion.bounds import Fraction, PositiveFloat, PositiveInt
from micro_diffusion.representation.representation import Representation, similarity
from micro_diffusion.training.auxiliary.auxiliary import Auxiliary, Step
from micro_diffusion.training.auxiliary.tap import Tap


class RepresentationAlignment(Auxiliary):
    """1 − the mean cosine similarity of projected tokens and features (there, equation 8), of visible patches alone.

    Args:
        encoder: that sees the clean latents.
        dim: D, the width of the backbone.
        block: after which the backbone's tokens are projected, counted from 1; 8 of 28 there.
        hidden: width of the two hidden layers of the projection; 2048 there.
        weight: lambda; 0.5 there.
        until: share of the training after which it ends, since a small encoder holds a good backbone back in the end
            (Wang et al. 2025, "REPA works until it doesn't", arXiv 2505.16792).
    """

    def __init__(
        self,
        *,
        encoder: Representation,
        dim: PositiveInt,
        block: PositiveInt,
        hidden: PositiveInt,
        weight: PositiveFloat = 0.5,
        until: Fraction = 1.0,
    ) -> None:
        super().__init__(weight=weight, until=until)
        self.encoder, self.block = encoder, block
        self.head = nn.Sequential(
            nn.Linear(dim, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, encoder.dim)
        )

    def attach(self, backbone: Backbone) -> None:
        """Hear the tokens after the block.

        Raises ValueError for a backbone without such a block.
        """
        blocks = getattr(backbone, "blocks", None)
        if not isinstance(blocks, nn.ModuleList) or self.block > len(blocks):
            there = f"has {len(blocks)} blocks" if isinstance(blocks, nn.ModuleList) else "has no list of blocks"
            raise ValueError(
                f"block of {type(self).__name__} is {self.block}, but {type(backbone).__name__} {there}; choose one "
                "that it has, or leave the loss out"
            )
        self.taps = [Tap(blocks[self.block - 1])]
        self.class_tokens = 0 if class_token_of(backbone) is None else 1

    @property
    def frozen(self) -> list[nn.Module]:
        """The encoder's."""
        return self.encoder.frozen

    def forward(self, step: Step) -> Tensor:
        """The mean over the batch, (), of tokens (B, T, D), or (B, K, D) of the kept patches."""
        tokens = self.taps[0].take()
        tokens = tokens[:, : tokens.shape[1] - self.class_tokens]
        with torch.no_grad():
            features = self.encoder.features(step.latents, step.grid)
        if step.keep is not None and tokens.shape[1] != features.shape[1]:
            features = keep_tokens(features, step.keep)
        return (1 - similarity(self.head(tokens), features)).mean()
