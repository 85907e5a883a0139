"""The transformer of "transformer latent diffusion" (github.com/apapiu/transformer_latent_diffusion), 101 M parameters.

Learned positions, a depth-wise convolution in every feed-forward layer, and cross-attention to two tokens: the noise
level and a pooled caption. Two networks have gone by that name with the same weights' names and shapes. The first one,
v0.1.0, made the released weights: `norm_placement="post"`, `interleaved_heads=True`, `cross_heads=4`. Today's is the
default here.

Legend: B batch, C latent channels, C' channels of a conditioning image, h w latent cells, p patch side, P = C·p², T
patches, E width, L caption tokens, D caption width, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from micro_diffusion.backbone.backbone import ParameterGroup, Prediction, check_image, parameter_group
from micro_diffusion.backbone.conv_block import ConvBlock
from micro_diffusion.backbone.embedding import check_latents, other_sizes, patch_grid
from micro_diffusion.backbone.fourier_embedding import FourierEmbedding
from micro_diffusion.backbone.patch_grid import SizedPatches
from micro_diffusion.bounds import NonNegativeInt, PositiveFloat, PositiveInt
from micro_diffusion.condition import Condition

NormPlacement = Literal["pre", "post"]


class ConvTransformer(SizedPatches):
    """Maps (noisy latents, noise level, pooled caption) to a prediction of the latents' shape.

    It sees every patch: masked patches are not possible. Weights begin as torch's layers do, positions as N(0, 1).

    Args:
        input_size: latent cells along a side, or (height, width).
        further_sizes: other (height, width) that it takes as well, over which the positions are stretched.
        in_channels: C.
        patch_size: p.
        dim: E, a multiple of heads and of cross_heads.
        depth: blocks.
        heads: H of the self-attention.
        caption_dim: D. A pooled caption is one token; of several each becomes a token of its own.
        cross_heads: H of the cross-attention; None for as many as in the self-attention.
        mlp_ratio: hidden width over E of the feed-forward layers.
        noise_features: sines and cosines of the noise level, an even number.
        norm_placement: "pre" for x + f(norm(x)), "post" for norm(x + f(x)).
        interleaved_heads: channel d·H + head of q, k, v and of the result belongs to a head, rather than channel
            head·(E/H) + d. There is no projection after the attention that could undo the order.
        image_channels: C' of the conditioning image, which is concatenated to x; its weights begin at zero.
        position_scale: there is a learned position for each patch of latents `input_size / position_scale`, which
            are stretched over the image: 1 at 256 px, 2 at 512 px, to go on from weights of 256 px.
        use_caption_mask: attend to a caption's own rows only, where it has several.
        activation_checkpointing: keep only what enters each block for the backward pass.

    Raises:
        ValueError: for sizes that do not fit one another.
    """

    takes_image_level = False
    takes_keep = False

    def __init__(
        self,
        *,
        input_size: PositiveInt | Sequence[PositiveInt],
        in_channels: PositiveInt,
        patch_size: PositiveInt,
        dim: PositiveInt,
        depth: PositiveInt,
        heads: PositiveInt,
        caption_dim: PositiveInt,
        cross_heads: PositiveInt | None = None,
        mlp_ratio: PositiveFloat = 4.0,
        noise_features: PositiveInt = 256,
        norm_placement: NormPlacement = "pre",
        interleaved_heads: bool = False,
        image_channels: NonNegativeInt = 0,
        position_scale: PositiveFloat = 1.0,
        use_caption_mask: bool = False,
        activation_checkpointing: bool = False,
        further_sizes: Sequence[Sequence[PositiveInt]] | None = None,
    ) -> None:
        super().__init__()
        cross_heads = heads if cross_heads is None else cross_heads
        for name, number in (("heads", heads), ("cross_heads", cross_heads)):
            if number < 1 or dim % number:
                raise ValueError(f"backbone.{name} is {number}, which does not divide dim={dim}; choose a divisor")
        if norm_placement not in ("pre", "post"):
            raise ValueError(f"backbone.norm_placement is {norm_placement!r}; set it to pre or post")
        self.in_channels, self.patch_size, self.caption_dim = in_channels, patch_size, caption_dim
        self.image_channels, self.use_caption_mask = image_channels, use_caption_mask
        self.activation_checkpointing = activation_checkpointing

        self.noise_embedding = FourierEmbedding(noise_features, dim)
        self.caption_embedding = nn.Linear(caption_dim, dim)
        self.condition_norm = nn.LayerNorm(dim)
        width = in_channels * patch_size**2
        self.patch_embedding = nn.Conv2d(in_channels, width, patch_size, patch_size)
        self.image_embedding = (
            nn.Conv2d(image_channels, width, patch_size, patch_size, bias=False) if image_channels else None
        )
        self.patch_norm = nn.LayerNorm(width)
        self.patch_projection = nn.Linear(width, dim)
        self.embedding_norm = nn.LayerNorm(dim)
        self.blocks = nn.ModuleList(
            ConvBlock(dim, heads, cross_heads, int(mlp_ratio * dim), norm_placement == "pre", interleaved_heads)
            for _ in range(depth)
        )
        self.final = nn.Linear(dim, width)
        if self.image_embedding is not None:
            nn.init.zeros_(self.image_embedding.weight)

        self.resize(input_size, position_scale)
        self._further_sizes = other_sizes(further_sizes, self.input_size, patch_size)
        rows, columns = (round(side / position_scale) for side in self.grid)
        if (rows * position_scale, columns * position_scale) != self.grid or min(rows, columns) < 1:
            raise ValueError(
                f"position_scale={position_scale:g} does not divide the {self.grid[0]}×{self.grid[1]} patches of "
                "input_size; choose 1, or the resolution over that of the weights to start from"
            )
        self.positions = nn.Parameter(torch.randn(dim, rows, columns))

    def resize(self, input_size: int | Sequence[int], position_scale: float) -> None:
        """Take latents of `input_size` cells (a side, or height and width) from now on; no weight changes.

        The learned positions are stretched over any size, so `position_scale` is only what a later stage would state.
        Raises ValueError when the size is no multiple of the patch, or the scale not positive and finite.
        """
        self.input_size, self.grid = patch_grid(input_size, self.patch_size, position_scale)
        self.position_scale = position_scale

    def forward(self, x: Tensor, level: Tensor, condition: Condition, keep: Tensor | None = None) -> Prediction:
        """x (B, C, h, w), level (B,), condition -> Prediction; keep is None.

        Raises ValueError for latents or a condition that the network was not built for, and for masked patches.
        """
        self._check(x, condition, keep)
        told = torch.cat([self.noise_embedding(level)[:, None], self.caption_embedding(condition.tokens)], dim=1)
        told = self.condition_norm(told)
        mask = condition.mask if self.use_caption_mask else None
        mask = None if mask is None else functional.pad(mask, (1, 0), value=True)

        patches = self.patch_embedding(x)
        rows, columns = grid = (patches.shape[2], patches.shape[3])
        if self.image_embedding is not None:
            patches = patches + self.image_embedding(condition.image)
        tokens = self.patch_projection(self.patch_norm(rearrange(patches, "b p h w -> b (h w) p")))
        tokens = self.embedding_norm(tokens) + self.stretched_positions(grid)
        for block in self.blocks:
            tokens = self._run(block, tokens, told, mask, grid)
        return Prediction(
            rearrange(
                self.final(tokens), "b (h w) (c p q) -> b c (h p) (w q)",
                h=rows, w=columns, p=self.patch_size, q=self.patch_size,
            )
        )  # fmt: skip

    def stretched_positions(self, grid: tuple[int, int] | None = None) -> Tensor:
        """The learned positions for (rows, columns) of patches, or today's -> (T, E): bilinear up, averaged down.

        As in the forerunner's branch `better_pos_encoding`; an image's middle keeps its position.
        """
        table, (rows, columns) = self.positions, grid or self.grid
        if table.shape[1:] != (rows, columns):
            larger = (max(rows, table.shape[1]), max(columns, table.shape[2]))
            table = functional.interpolate(table[None], size=larger, mode="bilinear", align_corners=False)
            table = functional.adaptive_avg_pool2d(table, (rows, columns))[0]
        return rearrange(table, "e h w -> (h w) e")

    def _run(
        self, block: nn.Module, tokens: Tensor, told: Tensor, mask: Tensor | None, grid: tuple[int, int]
    ) -> Tensor:
        """One block, checkpointed where that was asked for and a backward pass will come."""
        if self.activation_checkpointing and torch.is_grad_enabled():
            from torch.utils.checkpoint import checkpoint  # imports sympy: seconds that generating need not wait for

            again = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)  # a block draws nothing
            return again(block, tokens, told, mask, grid)  # pyright: ignore[reportReturnType]
        return block(tokens, told, mask, grid)

    def _check(self, x: Tensor, condition: Condition, keep: Tensor | None) -> None:
        check_latents(x, self.in_channels, self.sizes)
        if condition.tokens.shape[-1] != self.caption_dim:
            raise ValueError(
                f"captions have features of width {condition.tokens.shape[-1]}, but the network was built for "
                f"{self.caption_dim}; set backbone.caption_dim={condition.tokens.shape[-1]} or use its own text encoder"
            )
        check_image(self, condition, tuple(x.shape[2:]))
        if keep is not None:
            raise ValueError("this network's convolutions need every patch; set model.train_mask_ratio=0")

    def parameter_groups(self) -> list[ParameterGroup]:
        """Hidden matrices, other matrices, and the rest (vectors, filters, positions) without weight decay."""
        matrices = [p for block in self.blocks for p in block.parameters() if p.ndim == 2]
        named = {id(p) for p in matrices}
        embeddings = [p for p in self.parameters() if p.ndim == 2 and id(p) not in named]
        rest = [p for p in self.parameters() if p.ndim != 2]
        return [
            parameter_group("matrices", matrices, matrices=True),
            parameter_group("embeddings", embeddings),
            parameter_group("vectors", rest, decay=False),
        ]
