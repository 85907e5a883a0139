"""A UNet for pixels with text: Saharia et al. 2022 (Imagen), arXiv 2205.11487, appendix B.

Its parts follow the published shapes, and where these leave room the open implementation imagen-pytorch of P. Wang.
Legend: B batch, C channels of the image, h w cells, D context width, E width of the level's vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from micro_diffusion.backbone.backbone import ParameterGroup, Prediction, check_image, parameter_group
from micro_diffusion.backbone.embedding import image_level_told
from micro_diffusion.backbone.pixel_attention import (
    AttentionBlock,
    CrossAttention,
    LinearAttention,
    MultiQueryAttention,
)
from micro_diffusion.backbone.pixel_blocks import ConvBlock, ResidualBlock
from micro_diffusion.backbone.pixel_conditioning import LevelEmbedding, TextPath
from micro_diffusion.backbone.pixel_levels import DownLevel, Level, UpLevel, run
from micro_diffusion.backbone.pixel_resampling import CrossEmbedding, SummedConvolutions, downsampling, upsampling
from micro_diffusion.bounds import NonNegativeInt, PositiveFloat, PositiveInt
from micro_diffusion.condition import Condition

SelfAttentionKind = Literal["none", "linear", "full"]
Value = TypeVar("Value")


class PixelUNet(nn.Module):
    """Maps (noisy image, noise level, condition) to a prediction of the image's shape, of any size its levels divide.

    Arguments that say "a level" take one value for all levels, or a list with one for each from the finest on.

    Args:
        input_size: side of the images, or (height, width), that are generated where no other size is asked for.
        in_channels: C.
        caption_dim: width of a caption token's feature.
        dim: channels that `dim_mults` multiply.
        dim_mults: channels of each level over `dim`; the image is halved between levels.
        blocks: residual blocks of a level, besides the one that may attend to the context.
        self_attention: of a level: "full", "linear" or "none".
        cross_attention: whether a level's first block attends to the context. The middle always does.
        attention_depth: self-attention blocks of a level, where it has any.
        middle_attention_depth: full self-attention blocks between both halves; 0 for none.
        heads, head_dim: of every attention.
        ff_mult: hidden width over channels of the layer after a self-attention.
        context_dim: D; None is `dim`.
        level_rows: rows of the context that tell a noise level.
        level_features: sines and cosines of a noise level.
        max_text_length: the most tokens of a caption.
        text_latents: learned rows to which the perceiver resampler brings a caption; 0 keeps its own rows.
        init_dim: channels of the first convolution; None is `dim`.
        input_kernels: sides of the kernels of the first convolution.
        downsampling_kernels: of convolutions that halve the image; none brings 2×2 cells into channels.
        pixel_shuffle: enlarge by channels that become 2×2 cells, or else by repetition and a convolution.
        memory_efficient: halve the image before a level rather than after it, and so work at half the sides.
        norm_groups: of group norm; 0 is the RMS norm of each cell.
        global_context: gate the residual blocks by global context.
        scale_skips: multiply what skips from the first half to the second by 2^-½.
        input_to_output: lead the first convolution's result to the final block, too.
        combine_levels: lead the results of all levels of the second half to the final block.
        final_block: a residual block before the last convolution.
        final_kernel: side of the last convolution, odd.
        image_channels: of the condition's image, which stands beside the noisy one and before the last convolution.
        takes_image_level: whether that image has a noise level of its own.
        activation_checkpointing: keep only what enters each block for the backward pass, which computes it again.

    Raises:
        ValueError: for values that do not fit together, or of which one would have no effect.
    """

    takes_keep = False
    use_caption_mask = True

    def __init__(
        self,
        *,
        input_size: PositiveInt | Sequence[PositiveInt],
        in_channels: PositiveInt,
        caption_dim: PositiveInt,
        dim: PositiveInt,
        dim_mults: Sequence[PositiveInt] = (1, 2, 4, 8),
        blocks: NonNegativeInt | Sequence[NonNegativeInt] = 1,
        self_attention: SelfAttentionKind | Sequence[SelfAttentionKind] = "full",
        cross_attention: bool | Sequence[bool] = True,
        attention_depth: PositiveInt = 1,
        middle_attention_depth: NonNegativeInt = 1,
        heads: PositiveInt = 8,
        head_dim: PositiveInt = 64,
        ff_mult: PositiveFloat = 2.0,
        context_dim: PositiveInt | None = None,
        level_rows: PositiveInt = 2,
        level_features: PositiveInt = 16,
        max_text_length: PositiveInt = 256,
        text_latents: NonNegativeInt = 32,
        init_dim: PositiveInt | None = None,
        input_kernels: Sequence[PositiveInt] = (3, 7, 15),
        downsampling_kernels: Sequence[PositiveInt] = (),
        pixel_shuffle: bool = True,
        memory_efficient: bool = False,
        norm_groups: NonNegativeInt = 0,
        global_context: bool = True,
        scale_skips: bool = True,
        input_to_output: bool = False,
        combine_levels: bool = False,
        final_block: bool = True,
        final_kernel: PositiveInt = 3,
        image_channels: NonNegativeInt = 0,
        takes_image_level: bool = False,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        depth = len(dim_mults)
        self_attentions = _by_level(self_attention, depth, "self_attention")
        cross_attentions = _by_level(cross_attention, depth, "cross_attention")
        block_counts = _by_level(blocks, depth, "blocks")
        _check_least(1, dim=dim, levels=depth, heads=heads, head_dim=head_dim, attention_depth=attention_depth)
        _check_least(1, level_rows=level_rows, max_text_length=max_text_length, dim_mults=min(dim_mults, default=1))
        _check_least(0, blocks=min(block_counts), middle_attention_depth=middle_attention_depth)
        _check_least(0, image_channels=image_channels, text_latents=text_latents)
        if unknown := set(self_attentions) - {"none", "linear", "full"}:
            raise ValueError(f"backbone.self_attention is {min(unknown)!r}; set it to full, linear or none")
        if level_features < 2 or level_features % 2 or final_kernel % 2 != 1:
            raise ValueError(
                f"backbone has {level_features=} and {final_kernel=}; set an even number from 2 on, and an odd one"
            )
        if takes_image_level and not image_channels:
            raise ValueError("backbone.takes_image_level is true, but image_channels is 0; set it above 0")
        if set(self_attentions) == {"none"} and attention_depth != 1:
            raise ValueError(f"{attention_depth=} has no effect without self_attention; leave it out")
        if not memory_efficient and depth == 1 and downsampling_kernels:
            raise ValueError("downsampling_kernels has no effect with one level; leave it out")
        self.patch_size = 2 ** (depth if memory_efficient else depth - 1)
        height, width = (input_size, input_size) if isinstance(input_size, int) else input_size
        self.input_size = (height, width)
        self.in_channels, self.caption_dim, self.image_channels = in_channels, caption_dim, image_channels
        self._check_size(in_channels, height, width)
        self.takes_image_level, self.activation_checkpointing = takes_image_level, activation_checkpointing
        self.skip_scale = 2**-0.5 if scale_skips else 1.0
        self.input_to_output, self.combine_levels = input_to_output, combine_levels

        context = context_dim or dim
        level_dim = dim * (8 if takes_image_level else 4)
        attends = {"heads": heads, "head_dim": head_dim, "context_dim": context}
        block = partial(ResidualBlock, level_dim=level_dim, groups=norm_groups)

        def first(channels_in: int, channels: int, cross: bool) -> ResidualBlock:
            return block(channels_in, channels, attention=CrossAttention(channels, **attends) if cross else None)

        def attention(channels: int, kind: str, blocks: int, **changes: Any) -> list[AttentionBlock]:
            kinds: Any = {"full": MultiQueryAttention, "linear": LinearAttention}
            hidden = int(ff_mult * channels)
            return [
                AttentionBlock(channels, kinds[kind](channels, **(attends | changes)), hidden)
                for _ in range(0 if kind == "none" else blocks)
            ]

        embedding = partial(LevelEmbedding, row_dim=context, rows=level_rows, features=level_features)
        self.level = embedding(level_dim)
        self.image_level = embedding(level_dim) if takes_image_level else None
        self.text = TextPath(
            caption_dim,
            row_dim=context,
            vector_dim=level_dim,
            length=max_text_length,
            latents=text_latents,
            heads=heads,
            head_dim=head_dim,
        )
        self.context_norm = nn.LayerNorm(context)

        first_dim = init_dim or dim
        self.input = CrossEmbedding(in_channels + image_channels, first_dim, input_kernels)
        self.input_block = block(first_dim, first_dim, gated=global_context) if memory_efficient else None
        dims = [first_dim, *(dim * mult for mult in dim_mults)]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        levels = zip(dims, dims[1:], self_attentions, cross_attentions, block_counts, strict=False)
        for i, (before, after, kind, cross, count) in enumerate(levels):
            last = i == depth - 1
            inside = after if memory_efficient else before
            halved = None
            if memory_efficient or not last:
                halved = downsampling(before, after, downsampling_kernels)
            self.down.append(
                DownLevel(
                    first=first(inside, inside, cross),
                    blocks=[block(inside, inside, gated=global_context) for _ in range(count)],
                    attention=attention(inside, kind, attention_depth),
                    resampling=halved or SummedConvolutions(before, after),
                    resample_first=memory_efficient,
                    recompute=activation_checkpointing,
                )
            )
            enlarged = memory_efficient or i > 0
            self.up.insert(
                0,
                UpLevel(
                    first=first(after + inside, after, cross),
                    blocks=[block(after + inside, after, gated=global_context) for _ in range(count)],
                    attention=attention(after, kind, attention_depth),
                    resampling=upsampling(after, before, pixel_shuffle=pixel_shuffle) if enlarged else nn.Identity(),
                    recompute=activation_checkpointing,
                ),
            )
        self.middle_first = first(dims[-1], dims[-1], True)
        self.middle_attention = nn.ModuleList(attention(dims[-1], "full", middle_attention_depth, context_dim=None))
        self.middle_last = first(dims[-1], dims[-1], True)

        self.combined = nn.ModuleList(ConvBlock(d, dim, norm_groups) for d in reversed(dims[1:]) if combine_levels)
        width = (first_dim if memory_efficient else dims[1]) + dim * len(self.combined)
        width += first_dim if input_to_output else 0
        self.final_block = block(width, dim, gated=True) if final_block else None
        convolution = partial(nn.Conv2d, out_channels=in_channels, kernel_size=final_kernel, padding=final_kernel // 2)
        self.final = convolution(dim if final_block else width)
        self.image_final = convolution(image_channels, bias=False) if image_channels else None
        for parameter in (*self.final.parameters(), *(self.image_final or nn.Identity()).parameters()):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, level: Tensor, condition: Condition, keep: Tensor | None = None) -> Prediction:
        """x (B, C, h, w), level (B,), condition with an image of x's size where the network takes one -> Prediction.

        Raises ValueError when x or the condition does not fit the network.
        """
        self._check(x, condition, keep)
        vector, context = self._told(level, condition)
        image = [] if condition.image is None else [condition.image.to(x.dtype)]
        x = torch.cat([x, *image], dim=1)
        x = start = self.input(x.contiguous(memory_format=torch.channels_last))  # the faster order on a CPU
        if self.input_block is not None:
            x = self._run(self.input_block, x, vector, context)
        skips = []
        for level_down in self.down:
            x, skipping = level_down(x, vector, context)
            skips.append([skip * self.skip_scale for skip in skipping])
        x = self._run(self.middle_first, x, vector, context)
        for block in self.middle_attention:
            x = self._run(block, x, context)
        x = self._run(self.middle_last, x, vector, context)
        results = []
        for level_up in self.up:
            x, result = level_up(x, skips.pop(), vector, context)
            results.append(result)
        size = x.shape[-2:]
        levels = zip(self.combined, results, strict=False)  # no blocks where levels are not combined
        more = [functional.interpolate(block(y), size) for block, y in levels]
        x = torch.cat([x, *more, *([start] if self.input_to_output else [])], dim=1)
        x = x if self.final_block is None else self._run(self.final_block, x, vector, context)
        y = self.final(x)
        if self.image_final is not None:
            y = y + self.image_final(*image)
        return Prediction(y)

    def _told(self, level: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """The vector (B, E) and the context (B, L, D)."""
        vector, rows = self.level(level)
        told = [rows]
        if self.image_level is not None and condition.image_level is not None:
            image_vector, image_rows = self.image_level(image_level_told(condition.image_level))
            vector, told = vector + image_vector, [*told, image_rows]
        text_vector, text_rows = self.text(condition)
        return vector + text_vector, self.context_norm(torch.cat([*told, text_rows], dim=1))

    def _run(self, block: nn.Module, *inputs: Tensor) -> Tensor:
        return run(block, *inputs, recompute=self.activation_checkpointing)

    def _check(self, x: Tensor, condition: Condition, keep: Tensor | None) -> None:
        if keep is not None:
            raise ValueError("PixelUNet has no patches that could be masked; set model.train_mask_ratio=0")
        self._check_size(*x.shape[1:])
        check_image(self, condition, tuple(x.shape[2:]))

    def _check_size(self, channels: int, height: int, width: int) -> None:
        if channels != self.in_channels or height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"images are {(channels, height, width)} (channels, height, width), but the network takes "
                f"{self.in_channels} channels and sides that divide by {self.patch_size}; choose such a resolution, or "
                "fewer dim_mults"
            )

    def parameter_groups(self) -> list[ParameterGroup]:
        """Hidden matrices and kernels, other matrices and kernels, vectors without weight decay."""
        blocks = [m for m in self.modules() if isinstance(m, Level | ResidualBlock | ConvBlock | AttentionBlock)]
        layers = [m for block in blocks for m in block.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        # a depthwise kernel is no matrix: its filters are of different channels; nor is the map to a single score
        hidden = [m for m in layers if m.weight.shape[0] > 2 and getattr(m, "groups", 1) == 1]
        chosen = {id(m.weight) for m in hidden}
        matrices = [p for p in self.parameters() if id(p) in chosen]
        rest = [p for p in self.parameters() if id(p) not in chosen]
        groups = [
            parameter_group("matrices", matrices, matrices=True),
            parameter_group("kernels", [p for p in rest if p.ndim in (2, 4)]),
            parameter_group("vectors", [p for p in rest if p.ndim not in (2, 4)], decay=False),
        ]
        return [group for group in groups if group["parameters"]]


def _by_level(value: Value | Sequence[Value], levels: int, name: str) -> list[Value]:
    """One value for each level."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        return [value] * levels  # pyright: ignore[reportReturnType]
    if len(value) != levels:
        raise ValueError(f"backbone.{name} has {len(value)} values for {levels} levels; give one, or one for each")
    return list(value)


def _check_least(least: int, **numbers: int) -> None:
    """Raise ValueError for the first of these settings that is below `least`."""
    for name, number in numbers.items():
        if number < least:
            raise ValueError(f"backbone.{name} is {number}; set it to at least {least}")
