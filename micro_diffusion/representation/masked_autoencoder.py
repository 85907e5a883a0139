"""A small encoder that learns what latents show without captions or labels, by guessing masked patches.

He et al. 2022, "Masked autoencoders are scalable vision learners", arXiv 2111.06377. Masks ask for no augmentation,
of which latents know few, and leave colours in the features, which captions are about.
Legend: B images, C latent channels, h w latent cells, p patch side, T patches, K kept patches, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from micro_diffusion.backbone.attention import SelfAttention
from micro_diffusion.backbone.backbone import ParameterGroup, parameter_group
from micro_diffusion.backbone.block import CaptionBlock
from micro_diffusion.backbone.embedding import check_latents, patch_grid, patchify, sincos_positions
from micro_diffusion.backbone.experts import SwiGLU
from micro_diffusion.backbone.masking import keep_tokens, put_back, visible
from micro_diffusion.backbone.patch_grid import SizedPatches
from micro_diffusion.bounds import NonNegativeInt, PositiveFloat, PositiveInt


class MaskedAutoencoder(SizedPatches):
    """An encoder of visible patches, whose output is the representation, and a decoder that guesses the others.

    Args:
        input_size: latent cells along a side, or (height, width).
        in_channels: C.
        patch_size: p.
        dim: D, a multiple of head_dim and of 4.
        depth: blocks of the encoder.
        head_dim: width of an attention head.
        decoder_dim: width of the decoder, a multiple of head_dim and of 4.
        decoder_depth: blocks of the decoder.
        mlp_ratio: hidden width of a SwiGLU over that of its block.
    """

    positions: Tensor
    decoder_positions: Tensor

    def __init__(
        self,
        *,
        input_size: PositiveInt | Sequence[PositiveInt],
        in_channels: PositiveInt,
        patch_size: PositiveInt,
        dim: PositiveInt,
        depth: PositiveInt,
        head_dim: PositiveInt,
        decoder_dim: PositiveInt,
        decoder_depth: NonNegativeInt = 1,
        mlp_ratio: PositiveFloat = 2.5,
    ) -> None:
        super().__init__()
        for name, width in (("dim", dim), ("decoder_dim", decoder_dim)):
            if width % head_dim:
                raise ValueError(f"{name} is {width}, no multiple of head_dim={head_dim}; change either")
        self.in_channels, self.patch_size, self.dim = in_channels, patch_size, dim
        self.input_size, self.grid = patch_grid(input_size, patch_size, 1.0)

        def blocks(width: int, count: int) -> nn.Sequential:
            hidden = int(mlp_ratio * width)
            return nn.Sequential(*(CaptionBlock(width, hidden=hidden, head_dim=head_dim) for _ in range(count)))

        self.patch_embedding = nn.Linear(patch_size**2 * in_channels, dim)
        self.blocks = blocks(dim, depth)
        self.norm = nn.LayerNorm(dim, bias=False)
        self.decoder_in = nn.Linear(dim, decoder_dim)
        self.mask_token = nn.Parameter(torch.zeros(decoder_dim))
        self.decoder = blocks(decoder_dim, decoder_depth)
        self.decoder_norm = nn.LayerNorm(decoder_dim, bias=False)
        self.decoder_out = nn.Linear(decoder_dim, patch_size**2 * in_channels)
        self.register_buffer("positions", sincos_positions(*self.grid, dim, 1.0), persistent=False)
        self.register_buffer("decoder_positions", sincos_positions(*self.grid, decoder_dim, 1.0), persistent=False)
        self._initialize()

    def features(self, latents: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, C, h, w) -> (B, T, D), or (B, K, D) of the kept patches alone, keep (B, K).

        Raises ValueError for latents of another shape than it was built for.
        """
        check_latents(latents, self.in_channels, self.sizes)
        tokens = self.patch_embedding(patchify(latents, self.patch_size)) + self.positions
        return self.norm(self.blocks(tokens if keep is None else keep_tokens(tokens, keep)))

    def forward(self, latents: Tensor, keep: Tensor) -> Tensor:
        """(B, C, h, w), keep (B, K) -> the mean squared error of each image's masked patches, (B,)."""
        kept = self.decoder_in(self.features(latents, keep))
        masked = self.mask_token.to(kept.dtype).expand(len(latents), self.patches, -1)
        tokens = self.decoder(put_back(masked.contiguous(), kept, keep) + self.decoder_positions)
        guesses = self.decoder_out(self.decoder_norm(tokens)).float()
        error = (guesses - patchify(latents, self.patch_size)).square().mean(dim=2)
        asked = ~visible(keep, self.patches)
        return (error * asked).sum(dim=1) / asked.sum(dim=1).clamp(min=1)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Hidden matrices, other matrices, and vectors, which do not decay."""
        hidden = [m for m in self.modules() if isinstance(m, SelfAttention | SwiGLU)]
        matrices = [p for module in hidden for p in module.parameters()]
        named = {id(p) for p in matrices}
        rest = [p for p in self.parameters() if id(p) not in named]
        flat = [p for p in rest if p.ndim == 2]
        vectors = [p for p in rest if p.ndim != 2]
        return [
            parameter_group("matrices", matrices, matrices=True),
            parameter_group("embeddings", flat),
            parameter_group("vectors", vectors, decay=False),
        ]

    def _initialize(self) -> None:
        """Xavier for linear layers; the blocks begin as the identity."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.mask_token, std=0.02)
        for module in self.modules():
            if isinstance(module, CaptionBlock):
                module.initialize()
