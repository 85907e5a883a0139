"""A UNet for latents: residual blocks, attention at chosen levels, a class or a text as condition.

Its shape is that of "latent diffusion from scratch" (https://github.com/stanipov/pytorch-diffusion), after Ho et al.
2020, arXiv 2006.11239, appendix B.

Legend: B batch, C latent channels, h w latent cells, L tokens, D token width, E width of the vector of level and class.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from micro_diffusion.backbone.backbone import ParameterGroup, Prediction, check_image, parameter_group
from micro_diffusion.backbone.embedding import GeluMlp, image_level_told, sinusoidal_features
from micro_diffusion.backbone.unet_levels import DownLevel, Told, UpLevel, checkpointed
from micro_diffusion.bounds import NonNegativeInt, PositiveFloat, PositiveInt
from micro_diffusion.condition import Condition
from micro_diffusion.layers.image_attention import AttentionKind, ImageAttention, TextAttention
from micro_diffusion.layers.resampling import Downsampling, DownsamplingKind, Upsampling, UpsamplingKind
from micro_diffusion.layers.residual import ResidualBlock, check_groups


class UNet(nn.Module):
    """Maps (noisy latents, noise level, condition) to a prediction of the latents' shape.

    A class is a one-hot token, so that a linear layer on it is an embedding; it is added to the noise level's. A text
    of several tokens is pooled for the same sum, and its tokens are attended to.

    Args:
        input_size: latent cells along a side, or (height, width); those of training, since it takes any multiple of
            `patch_size`, which is 2 to the number of halvings.
        in_channels: C.
        caption_dim: D; the number of classes, where they are the condition.
        width: channels of the first level.
        multipliers: of `width`, for what leaves each level; there is a halving between two.
        blocks: residual blocks of a level.
        groups: of each GroupNorm; divides every width.
        standardised: whether the residual blocks' convolutions are weight-standardised.
        attention: levels with attention among cells, from 0 at full resolution, on the way down and up.
        attention_kind: of these, "linear" or "full".
        middle_attention: at the smallest resolution, "linear" or "full".
        cross_attention: attention of the cells to tokens, at the same places; without, a condition has one token.
        heads: of every attention.
        head_dim: width of a head.
        level_features: sines and cosines of the noise level, an even number.
        level_dim: E.
        downsampling_kind: "average", "max" or "convolution".
        upsampling_kind: "nearest", "bilinear", "bicubic" or "transposed".
        image_channels: channels of a conditioning image that is concatenated to x; 0 for none.
        takes_image_level: whether the noise level of that image is told.
        position_scale: what stages say of positions, which a UNet does not have; remembered alone.
        use_caption_mask: attend to, and pool, a caption's own rows only.
        activation_checkpointing: keep only what enters each block for the backward pass, which computes the rest again.

    Raises:
        ValueError: for sizes that do not fit one another.
    """

    takes_keep = False

    def __init__(
        self,
        *,
        input_size: PositiveInt | Sequence[PositiveInt],
        in_channels: PositiveInt,
        caption_dim: PositiveInt,
        width: PositiveInt = 64,
        multipliers: Sequence[PositiveInt] = (1, 2, 2, 4),
        blocks: PositiveInt = 2,
        groups: PositiveInt = 32,
        standardised: bool = True,
        attention: Sequence[NonNegativeInt] = (0, 1, 2, 3),
        attention_kind: AttentionKind = "linear",
        middle_attention: AttentionKind = "full",
        cross_attention: bool = False,
        heads: PositiveInt = 4,
        head_dim: PositiveInt = 32,
        level_features: PositiveInt = 64,
        level_dim: PositiveInt = 256,
        downsampling_kind: DownsamplingKind = "average",
        upsampling_kind: UpsamplingKind = "nearest",
        image_channels: NonNegativeInt = 0,
        takes_image_level: bool = False,
        position_scale: PositiveFloat = 1.0,
        use_caption_mask: bool = False,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        widths = [width, *(width * multiplier for multiplier in multipliers)]
        levels = len(widths) - 1
        _check_least(in_channels=in_channels, caption_dim=caption_dim, multipliers=levels, blocks=blocks, heads=heads)
        check_groups(groups, **{f"level {i} of the UNet": width for i, width in enumerate(widths)})
        if unknown := [index for index in attention if not 0 <= index < levels]:
            raise ValueError(f"backbone.attention names level {unknown[0]}; set it to levels from 0 to {levels - 1}")
        if level_features < 2 or level_features % 2:
            raise ValueError(f"backbone.level_features is {level_features}; set it to an even number of at least 2")
        if takes_image_level and not image_channels:
            raise ValueError("takes_image_level has no effect with image_channels=0; set takes_image_level=false")
        self.in_channels, self.caption_dim, self.image_channels = in_channels, caption_dim, image_channels
        self.takes_image_level, self.cross_attention = takes_image_level, cross_attention
        self.use_caption_mask, self.activation_checkpointing = use_caption_mask, activation_checkpointing
        self.level_features, self.patch_size = level_features, 2 ** (levels - 1)
        self.resize(input_size, position_scale)

        block = partial(ResidualBlock, groups=groups, standardised=standardised, steering_dim=level_dim)

        def attentions(index: int, channels: int) -> dict[str, Any]:
            if index not in attention:
                return {"attention": None, "text_attention": None}
            return {
                "attention": ImageAttention(channels, heads=heads, head_dim=head_dim, kind=attention_kind),
                "text_attention": to_text(channels) if cross_attention else None,
            }

        def to_text(channels: int) -> TextAttention:
            return TextAttention(channels, token_dim=caption_dim, heads=heads, head_dim=head_dim)

        self.level_embedding = GeluMlp(level_features, level_dim, normalize=False)
        self.class_embedding = nn.Linear(caption_dim, level_dim, bias=False)
        self.image_level_embedding = GeluMlp(level_features, level_dim, normalize=False) if takes_image_level else None
        self.text_norm = nn.LayerNorm(caption_dim, bias=False) if cross_attention else None

        self.first = nn.Conv2d(in_channels + image_channels, width, 1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for index, (before, after) in enumerate(pairwise(widths)):
            last = index == levels - 1
            down = _convolution(before, after) if last else Downsampling(before, after, downsampling_kind)
            up = Upsampling(after, before, upsampling_kind) if index else _convolution(after, before)
            self.down.append(
                DownLevel([block(before, before) for _ in range(blocks)], down, **attentions(index, before))
            )
            self.up.insert(
                0, UpLevel([block(before + after, after) for _ in range(blocks)], up, **attentions(index, after))
            )
        self.middle1, self.middle2 = block(widths[-1], widths[-1]), block(widths[-1], widths[-1])
        self.middle_attention = ImageAttention(widths[-1], heads=heads, head_dim=head_dim, kind=middle_attention)
        self.middle_text_attention = to_text(widths[-1]) if cross_attention else None
        self.last = block(2 * width, width)
        self.final = nn.Conv2d(width, in_channels, 1)
        self._initialize()

    def resize(self, input_size: int | Sequence[int], position_scale: float) -> None:
        """Latents of `input_size` cells (a side, or height and width) are what it is for; no weight changes.

        Raises ValueError when the size is no multiple of the patch, or the scale not positive and finite.
        """
        height, width = (input_size, input_size) if isinstance(input_size, int) else input_size
        if min(height, width) < 1 or height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"input_size {height}×{width} does not halve as often as the multipliers of the UNet want; choose "
                f"multiples of {self.patch_size}"
            )
        if not 0 < position_scale < math.inf:
            raise ValueError(f"position_scale is {position_scale}; set it above 0, as 1 at 256 px and 2 at 512 px")
        self.input_size, self.position_scale = (height, width), position_scale

    def forward(self, x: Tensor, level: Tensor, condition: Condition, keep: Tensor | None = None) -> Prediction:
        """x (B, C, h, w), level (B,), condition -> Prediction; keep is None.

        Raises ValueError for latents or a condition that the network does not take, and for masked patches.
        """
        self._check(x, condition, keep)
        told, run = self._told(level, condition), checkpointed(self.activation_checkpointing)
        x = first = self.first(x if condition.image is None else torch.cat([x, condition.image], dim=1))
        skips: list[Tensor] = []
        for stage in self.down:
            x, added = stage(x, told, run)
            skips += added
        x = run(self.middle1, x, told.vector)
        x = run(self.middle_attention, x)
        if self.middle_text_attention is not None:
            x = run(self.middle_text_attention, x, told.tokens, told.mask)
        x = run(self.middle2, x, told.vector)
        for stage in self.up:
            x = stage(x, skips, told, run)
        return Prediction(self.final(run(self.last, torch.cat([x, first], dim=1), told.vector)))

    def _told(self, level: Tensor, condition: Condition) -> Told:
        """What the blocks are told of level (B,) and condition."""
        mask = condition.mask if self.use_caption_mask else None
        weight = torch.ones_like(condition.tokens[..., 0]) if mask is None else mask.to(condition.tokens.dtype)
        pooled = torch.einsum("bld,bl->bd", condition.tokens, weight / weight.sum(dim=1, keepdim=True))
        vector = self.level_embedding(self._features(level)) + self.class_embedding(pooled)
        if self.image_level_embedding is not None and condition.image_level is not None:
            vector = vector + self.image_level_embedding(self._features(image_level_told(condition.image_level)))
        return Told(vector, None if self.text_norm is None else self.text_norm(condition.tokens), mask)

    def _features(self, level: Tensor) -> Tensor:
        """(B,) -> (B, level_features)."""
        return sinusoidal_features(level, self.level_features, 10_000.0).to(self.class_embedding.weight.dtype)

    def _check(self, x: Tensor, condition: Condition, keep: Tensor | None) -> None:
        if keep is not None:
            raise ValueError("a UNet's convolutions need every patch; set model.train_mask_ratio=0")
        if x.shape[1] != self.in_channels or any(side % self.patch_size for side in x.shape[2:]):
            raise ValueError(
                f"latents are {tuple(x.shape[1:])} (channels, height, width), but the network takes {self.in_channels} "
                f"channels and sides that are multiples of {self.patch_size}; use such latents or build it for these"
            )
        _, tokens, dim = condition.tokens.shape
        if dim != self.caption_dim:
            raise ValueError(
                f"the condition has features of width {dim}, but the network was built for {self.caption_dim}; set "
                f"backbone.caption_dim={dim} or use its own text encoder"
            )
        if tokens > 1 and not self.cross_attention:
            raise ValueError(
                f"the condition has {tokens} tokens, but the network has no attention to them; set "
                "backbone.cross_attention=true, or choose an encoder of classes or pooled captions"
            )
        check_image(self, condition, tuple(x.shape[2:]))

    def parameter_groups(self) -> list[ParameterGroup]:
        """Kernels and matrices, and vectors without weight decay."""
        kernels = [p for p in self.parameters() if p.ndim > 1]
        vectors = [p for p in self.parameters() if p.ndim <= 1]
        return [
            parameter_group("kernels", kernels),
            parameter_group("vectors", vectors, decay=False),
        ]

    def _initialize(self) -> None:
        """The network begins at zero, and blind to a conditioning image and its level."""
        with torch.no_grad():
            self.first.weight[:, self.in_channels :] = 0
        blind = [] if self.image_level_embedding is None else [self.image_level_embedding.fc2]
        for layer in (self.final, *blind):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]


def _convolution(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


def _check_least(**numbers: int) -> None:
    """Raise ValueError for the first of these settings that is below 1."""
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"backbone.{name} is {number}; set it to at least 1")
