"""A token of the transformer that is noised and denoised with the image: a vector that says what there is to see.

Wu et al. 2025, "Representation Entanglement for Generation" (REG), arXiv 2507.01467.
The vector fills further rows of cells below the latents, so that noise, objectives, samplers and guidance take both for
one tensor.
Legend: B batch, C latent channels, h w latent cells, F numbers of the vector, r = F/(C·w) its rows, D width, T patches,
K kept patches.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from micro_diffusion.backbone.backbone import Backbone, Prediction


class ClassToken(nn.Module):
    """The way of the vector into the transformer and out of it; the output begins at zero.

    Args:
        features: F.
        dim: D.
    """

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        self.features = features
        self.embedding = nn.Linear(features, dim)
        self.output = nn.Linear(dim, features)

    def rows(self, channels: int, width: int) -> int:
        """C, w -> r.

        Raises ValueError when these are no whole rows.
        """
        if self.features % (channels * width):
            raise ValueError(
                f"a class token of {self.features} numbers fills no whole rows of {channels} channels and {width} "
                f"cells; set backbone.class_token to a multiple of {channels * width}, or choose another resolution"
            )
        return self.features // (channels * width)

    def join(self, latents: Tensor, vector: Tensor) -> Tensor:
        """(B, C, h, w), (B, F) -> (B, C, h + r, w)."""
        _, channels, _, width = latents.shape
        return torch.cat([latents, vector.unflatten(1, (channels, self.rows(channels, width), width))], dim=2)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h + r, w) -> (B, C, h, w), (B, F); undoes `join`."""
        _, channels, height, width = x.shape
        latents, below = x.tensor_split([height - self.rows(channels, width)], dim=2)
        return latents, below.flatten(1)

    def join_mask(self, mask: Tensor, channels: int, *, value: bool) -> Tensor:
        """Of cells (B, 1, h, w) bool -> (B, 1, h + r, w), with that value on the rows of the vector."""
        return functional.pad(mask, (0, 0, 0, self.rows(channels, mask.shape[3])), value=value)

    def enter(
        self, tokens: Tensor, vector: Tensor, patches: int, angles: Tensor | None, keep: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The token behind those of the patches: always kept, and with rotary angles of zero, which turn nothing.

        Args:
            tokens: (B, T, D), or (B, K, D) of the kept patches.
            vector: (B, F).
            patches: T.
            angles: (T, head_dim/2) or None.
            keep: (B, K) or None.

        Returns:
            Tokens, angles and keep with one more.
        """
        tokens = torch.cat([tokens, self.embedding(vector)[:, None].to(tokens.dtype)], dim=1)
        angles = None if angles is None else functional.pad(angles, (0, 0, 0, 1))
        keep = None if keep is None else functional.pad(keep, (0, 1), value=patches)
        return tokens, angles, keep

    def leave(self, image: Prediction, token: Tensor) -> Prediction:
        """The prediction of the image, the token (B, D) behind all blocks -> the prediction of both, of x's shape."""
        value, visible = self.join(image.value, self.output(token)), image.visible
        return Prediction(value, None if visible is None else self.join_mask(visible, value.shape[1], value=True))


def class_token_of(backbone: Backbone) -> ClassToken | None:
    """That of a backbone, if it has one."""
    return getattr(backbone, "class_token", None)


def class_features(backbone: Backbone) -> int:
    """F, 0 for a backbone without."""
    token = class_token_of(backbone)
    return 0 if token is None else token.features


def noise_shape(backbone: Backbone, size: tuple[int, int]) -> tuple[int, int, int]:
    """(h, w) of latents -> (C, h + r, w) of what a backbone denoises, r = 0 without a class token."""
    token, (height, width) = class_token_of(backbone), size
    rows = 0 if token is None else token.rows(backbone.in_channels, width)
    return backbone.in_channels, height + rows, width
