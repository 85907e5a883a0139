"""The sparse diffusion transformer: patch mixer, masked patches, layer-wise scaled blocks, expert-choice experts.

Sehwag et al. 2024, "Stretching Each Dollar", arXiv 2407.15811.
Legend: B batch, C latent channels, h w latent cells, p patch side, T patches, K kept patches, D width, L caption
tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from micro_diffusion.backbone.attention import CrossAttention, SelfAttention
from micro_diffusion.backbone.backbone import ParameterGroup, Prediction, check_image, parameter_group
from micro_diffusion.backbone.block import Block, CaptionBlock, Norm, norm_of
from micro_diffusion.backbone.block_shapes import BlockShapes, over_depth, round_up
from micro_diffusion.backbone.blocks import Blocks, Fusion
from micro_diffusion.backbone.class_token import ClassToken
from micro_diffusion.backbone.embedding import (
    GeluMlp,
    NoiseEmbedding,
    check_latents,
    image_level_told,
    patchify,
    unpatchify,
)
from micro_diffusion.backbone.encoded_caption import Conditioning, EncodedCaption, Modulations, mean_token
from micro_diffusion.backbone.experts import ExpertChoice, SwiGLU
from micro_diffusion.backbone.masking import keep_tokens, restore_tokens, visible
from micro_diffusion.backbone.patch_grid import PatchGrid
from micro_diffusion.backbone.recomputation import modulated_norm
from micro_diffusion.bounds import FractionBelow1, NonNegativeInt, PositiveFloat, PositiveInt
from micro_diffusion.condition import Condition


class SparseDiT(PatchGrid):
    """Maps (noisy latents, noise level, caption) to a prediction of the latents' shape.

    Args:
        input_size: latent cells along a side, or (height, width).
        further_sizes: other (height, width) that it takes as well, their positions spanning the same area.
        in_channels: C.
        patch_size: p.
        dim: D, a multiple of head_dim and of 4.
        depth: blocks of the backbone.
        head_dim: width of an attention head.
        caption_dim: width of a caption token's feature.
        qkv_ratio: attention width over D; two values are spread evenly over depth, otherwise one value a block.
        mlp_ratio: hidden width over D of the feed-forward layers, likewise.
        multiple_of: hidden widths are rounded up to a multiple of it.
        mixer_depth: blocks of the patch mixer, which sees every patch; 0 for none.
        mixer_dim: width of the patch mixer.
        mixer_qkv_ratio: attention width over mixer_dim.
        mixer_mlp_ratio: hidden width over mixer_dim.
        mixer_convolution: a depth-wise 3×3 convolution before each feed-forward layer of the mixer.
        experts: number of experts in a sparse block; 0 for dense blocks only.
        expert_capacity: experts that take a token on average.
        experts_every: every how many blocks one is sparse (never the last block of the backbone).
        unmodulated_router: experts choose among tokens that are not told the noise level.
        shared_modulation: the blocks of mixer or backbone share one map from c to shift, scale and gate, to which each
            adds an offset of its own; see `Offset`.
        value_residual: blocks of the backbone after the first mix its values into their own; needs one attention width.
        route: (first, end), blocks of the backbone around which patches go that are not kept, while the others see all
            (Krause et al. 2025, "TREAD", arXiv 2501.04765); None leaves such patches out, of the prediction too.
        fusion: joins the patches before and after that route by a learned map, which lets more of them go around; see
            `Fusion`.
        route_drop: probability that all patches of an image go around, in training; needs a fusion.
        rotary: rotary positions in every self-attention of the patches, besides the fixed ones at the input.
        position_scale: grid positions are divided by it; see `sincos_positions`.
        activation_checkpointing: keep only what enters each block for the backward pass, which computes the rest again;
            a third more work for a fraction of the memory.
        use_caption_mask: attend to a caption's own rows only. The released weights were trained without.
        norm_eps: epsilon of every LayerNorm.
        norm: "layer" or "rms", of the blocks of mixer and backbone and before the last layer.
        image_channels: C', channels of a conditioning image that is seen beside x; 0 for none.
        takes_image_level: whether the noise level of that image is told.
        class_token: F, numbers of a vector that is denoised with the latents, below them in x; 0 for none. It goes with
            neither a route nor a conditioning image; see `ClassToken`.
    """

    takes_keep = True

    def __init__(
        self,
        *,
        input_size: PositiveInt | Sequence[PositiveInt],
        in_channels: PositiveInt,
        patch_size: PositiveInt,
        dim: PositiveInt,
        depth: PositiveInt,
        head_dim: PositiveInt,
        caption_dim: PositiveInt,
        qkv_ratio: Sequence[PositiveFloat] = (0.5, 1.0),
        mlp_ratio: Sequence[PositiveFloat] = (0.5, 4.0),
        multiple_of: PositiveInt = 256,
        mixer_depth: NonNegativeInt = 4,
        mixer_dim: PositiveInt = 512,
        mixer_qkv_ratio: PositiveFloat = 1.0,
        mixer_mlp_ratio: PositiveFloat = 4.0,
        mixer_convolution: bool = False,
        experts: NonNegativeInt = 8,
        expert_capacity: PositiveFloat = 2.0,
        experts_every: PositiveInt = 2,
        unmodulated_router: bool = False,
        shared_modulation: bool = False,
        value_residual: bool = False,
        route: Sequence[NonNegativeInt] | None = None,
        fusion: bool = False,
        route_drop: FractionBelow1 = 0.0,
        rotary: bool = False,
        position_scale: PositiveFloat = 1.0,
        use_caption_mask: bool = False,
        activation_checkpointing: bool = False,
        norm_eps: PositiveFloat = 1e-6,
        norm: Norm = "layer",
        image_channels: NonNegativeInt = 0,
        takes_image_level: bool = False,
        further_sizes: Sequence[Sequence[PositiveInt]] | None = None,
        class_token: NonNegativeInt = 0,
    ) -> None:
        super().__init__()
        self.image_channels, self.takes_image_level = image_channels, takes_image_level
        self.in_channels, self.patch_size, self.caption_dim = in_channels, patch_size, caption_dim
        self.dim, self.head_dim, self.rotary, self.use_caption_mask = dim, head_dim, rotary, use_caption_mask
        _check_effects(takes_image_level, image_channels, mixer_convolution, mixer_depth)
        if fusion and route is None:
            raise ValueError("fusion has no effect without a route; set route, or set fusion=false")
        if route_drop and not fusion:
            raise ValueError("route_drop has no effect without a fusion; set fusion=true, or route_drop=0")
        if class_token and (route is not None or image_channels):
            other = f"image_channels={image_channels}" if route is None else f"route={list(route)}"
            raise ValueError(f"class_token={class_token} does not go with {other}; leave out one of them")
        shapes = BlockShapes(
            conditioning_dim=dim,
            head_dim=head_dim,
            multiple_of=multiple_of,
            experts=experts,
            expert_capacity=expert_capacity,
            experts_every=experts_every,
            eps=norm_eps,
            unmodulated_router=unmodulated_router,
            shared_modulation=shared_modulation,
            norm=norm,
        )
        shapes.check(dim=dim, mixer_dim=mixer_dim, depth=depth, mixer_depth=mixer_depth)

        self.patch_embedding = nn.Linear(patch_size**2 * in_channels, dim)
        self.image_embedding = nn.Linear(patch_size**2 * image_channels, dim, bias=False) if image_channels else None
        self.image_level_embedding = NoiseEmbedding(dim) if takes_image_level else None
        self.noise_embedding = NoiseEmbedding(dim)
        self.caption_embedding = GeluMlp(caption_dim, dim, normalize=True, eps=norm_eps)
        hidden = round_up(2 * 4 * dim / 3, multiple_of)
        self.caption_block = CaptionBlock(dim, hidden=hidden, head_dim=head_dim, eps=norm_eps)
        self.pooled_embedding = GeluMlp(dim, dim, normalize=True, eps=norm_eps)

        mixer_dim = mixer_dim if mixer_depth else dim
        self.mixer_in, self.mixer_caption = _width_map(dim, mixer_dim, norm_eps), _width_map(dim, mixer_dim, norm_eps)
        self.mixer_modulation = nn.Linear(dim, 6 * mixer_dim) if shared_modulation and mixer_depth else nn.Identity()
        mixer = (
            Block(shapes.of(i, mixer_dim, mixer_qkv_ratio, mixer_mlp_ratio, convolution=mixer_convolution))
            for i in range(mixer_depth)
        )
        self.mixer = Blocks(mixer, activation_checkpointing=activation_checkpointing)
        self.mixer_out = _width_map(mixer_dim, dim, norm_eps)

        qkv, mlp = over_depth(qkv_ratio, depth, "qkv_ratio"), over_depth(mlp_ratio, depth, "mlp_ratio")
        self.modulation = nn.Linear(dim, 6 * dim) if shared_modulation else nn.Identity()
        blocks = (
            Block(
                shapes.of(i, dim, qkv[i], mlp[i], value_residual=value_residual and i > 0, may_be_sparse=i < depth - 1)
            )
            for i in range(depth)
        )
        self.blocks = Blocks(blocks, route=route, activation_checkpointing=activation_checkpointing)
        self.fusion = Fusion(dim, drop=route_drop) if fusion else None
        self.draws = bool(route_drop)
        self.final_norm = norm_of(norm, dim, norm_eps)
        self.final_modulation = nn.Linear(dim, 2 * dim)
        self.final = nn.Linear(dim, patch_size**2 * in_channels)
        self.class_token = ClassToken(class_token, dim) if class_token else None

        self.place(input_size, position_scale, further_sizes)
        if self.class_token is not None:
            for _, width in self.sizes:
                self.class_token.rows(in_channels, width)
        self._initialize()

    def encode_caption(self, condition: Condition) -> EncodedCaption:
        """What follows from the conditions alone, as training takes it: the same tokens for every block.

        Raises ValueError when captions or images are not as the network was built for.
        """
        tokens, mixer_tokens, mask, pooled = self._text_path(condition)
        image, told = self._image_path(condition)
        pooled = pooled if told is None else pooled + told
        return EncodedCaption([mixer_tokens] * len(self.mixer), [tokens] * len(self.blocks), mask, pooled, image)

    def prepare(self, condition: Condition, *, levels: Tensor | None = None, null_rows: int = 0) -> EncodedCaption:
        """What follows from the first `null_rows` conditions without text and then all, made once for many calls.

        levels: (S,) all noise levels of these calls, whose modulations are then made in one product for each block.

        Raises ValueError as `encode_caption` does.
        """
        tokens, mixer_tokens, mask, pooled = self._text_path(condition)
        null = Condition(condition.tokens.new_zeros(null_rows, 1, self.caption_dim))
        null_tokens, null_mixer_tokens, _, null_pooled = self._text_path(null)
        pooled = torch.cat([null_pooled, pooled])
        image, told = (None if y is None else torch.cat([y[:null_rows], y]) for y in self._image_path(condition))
        pooled = pooled if told is None else pooled + told
        return EncodedCaption(
            self.mixer.keys_values(mixer_tokens, null_mixer_tokens),
            self.blocks.keys_values(tokens, null_tokens),
            mask,
            pooled,
            image,
            None if levels is None else self._modulations(levels, pooled),
            null_rows,
        )

    def _modulations(self, levels: Tensor, pooled: Tensor) -> Modulations:
        """levels (S,), pooled (B, D)."""
        c = self._conditioning_vector(levels[:, None].expand(-1, len(pooled)).flatten(), pooled.repeat(len(levels), 1))
        c = c.unflatten(0, (len(levels), -1))
        mixer, blocks = (
            [block.modulation(told) for block in stack]
            for stack, told in ((self.mixer, self.mixer_modulation(c)), (self.blocks, self.modulation(c)))
        )
        return Modulations(levels, mixer, blocks, self.final_modulation(c))

    def _conditioning(self, level: Tensor, caption: EncodedCaption) -> Conditioning:
        """level (B,), one of those that the caption was prepared for, if it was."""
        if caption.modulations is not None:
            return caption.modulations.at(level)
        c = self._conditioning_vector(level, caption.pooled)
        mixer, blocks = [self.mixer_modulation(c)] * len(self.mixer), [self.modulation(c)] * len(self.blocks)
        return Conditioning(mixer, blocks, self.final_modulation(c))

    def _conditioning_vector(self, level: Tensor, pooled: Tensor) -> Tensor:
        """level (B,), pooled (B, D) -> c (B, D)."""
        return functional.gelu(self.noise_embedding(level) + pooled, approximate="tanh")

    def _image_path(self, condition: Condition) -> tuple[Tensor | None, Tensor | None]:
        """What the conditioning image adds to the patches (B, T, D), and its level to the pooled caption (B, D)."""
        size = self.input_size if condition.image is None else tuple(condition.image.shape[2:])
        check_image(self, condition, size if size in self.sizes else self.input_size)
        image = level = None
        if self.image_embedding is not None and condition.image is not None:
            image = self.image_embedding(patchify(condition.image, self.patch_size))
        if self.image_level_embedding is not None and condition.image_level is not None:
            level = self.image_level_embedding(image_level_told(condition.image_level))
        return image, level

    def _text_path(self, text: Condition) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """Tokens (B, L, D) for the backbone and (B, L, mixer_dim) for the mixer, their mask, and (B, D) pooled."""
        if text.tokens.shape[-1] != self.caption_dim:
            raise ValueError(
                f"captions have features of width {text.tokens.shape[-1]}, but the network was built for "
                f"{self.caption_dim}; set backbone.caption_dim={text.tokens.shape[-1]} or use its own text encoder"
            )
        mask = text.mask if self.use_caption_mask else None
        tokens = self.caption_block(self.caption_embedding(text.tokens), mask)
        return tokens, self.mixer_caption(tokens), mask, self.pooled_embedding(mean_token(tokens, mask))

    def forward(
        self, x: Tensor, level: Tensor, condition: Condition | EncodedCaption, keep: Tensor | None = None
    ) -> Prediction:
        """x (B, C, h, w), level (B,), condition, keep (B, K) indices of visible patches or None -> Prediction.

        With a class token x is (B, C, h + r, w), and its rows are always visible.

        Raises ValueError when x does not have the channels and the size that the network was built for.
        """
        x, vector = (x, None) if self.class_token is None else self.class_token.split(x)
        check_latents(x, self.in_channels, self.sizes)
        _, _, *size = x.shape
        positions, angles = self.positions_of(size)
        grid = self.grid_of(size)
        caption = condition if isinstance(condition, EncodedCaption) else self.encode_caption(condition)
        conditioning = self._conditioning(level, caption)
        tokens = self.patch_embedding(patchify(x, self.patch_size)) + positions
        if caption.image is not None:
            if caption.image.shape[1] != tokens.shape[1]:
                raise ValueError("the conditioning image has another size than the latents; give it theirs")
            tokens = tokens + caption.image

        tokens = self.mixer.through(
            self.mixer_in(tokens), conditioning.mixer, caption.mixer, caption.mask, grid=grid, angles=angles
        )
        if keep is not None and self.blocks.route is None:
            tokens = keep_tokens(tokens, keep)
        tokens, places = self.mixer_out(tokens), keep
        if self.class_token is not None and vector is not None:
            tokens, angles, places = self.class_token.enter(tokens, vector, grid[0] * grid[1], angles, keep)
        tokens = self.blocks.through(
            tokens,
            conditioning.blocks,
            caption.blocks,
            caption.mask,
            angles=angles,
            keep=places,
            fusion=self.fusion,
        )
        shift, scale = conditioning.final[:, None].chunk(2, dim=-1)
        tokens = modulated_norm(self.final_norm, tokens, shift, scale)
        if self.class_token is None:
            return self._image(tokens, size, keep)
        return self.class_token.leave(self._image(tokens[:, :-1], size, keep), tokens[:, -1])

    def _image(self, tokens: Tensor, size: Sequence[int], keep: Tensor | None) -> Prediction:
        """Tokens (B, T, D), or (B, K, D) of the kept patches alone -> the prediction of latents of this size."""
        patches = self.final(tokens)
        if keep is None or self.blocks.route is not None:
            return Prediction(unpatchify(patches, self.patch_size, *size))
        rows, columns = self.grid_of(size)
        patches = restore_tokens(patches, keep, rows * columns)
        shown = visible(keep, rows * columns)[:, :, None].expand(-1, -1, self.patch_size**2)
        return Prediction(*(unpatchify(y, self.patch_size, *size) for y in (patches, shown)))

    def parameter_groups(self) -> list[ParameterGroup]:
        """Hidden matrices, experts at half the learning rate, other matrices, and vectors without weight decay."""
        experts = [p for m in self.modules() if isinstance(m, ExpertChoice) for p in (m.w1, m.w2)]
        layers: list[nn.Module] = [m for m in self.modules() if isinstance(m, SelfAttention | CrossAttention | SwiGLU)]
        layers += [] if self.fusion is None else [self.fusion.both]
        matrices = [p for layer in layers for p in layer.parameters()]
        named = {id(p) for p in (*experts, *matrices)}
        rest = [p for p in self.parameters() if id(p) not in named]
        groups = [
            parameter_group("matrices", matrices, matrices=True),
            parameter_group("experts", experts, lr_scale=0.5, matrices=True),
            parameter_group("embeddings", [p for p in rest if p.ndim == 2]),
            parameter_group("vectors", [p for p in rest if p.ndim != 2], decay=False),
        ]
        return [group for group in groups if group["parameters"]]

    def _initialize(self) -> None:
        """Xavier for linear layers, small noise MLP, zero modulation and output, shrunk last projections."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for layer in (self.noise_embedding.fc1, self.noise_embedding.fc2):
            nn.init.normal_(layer.weight, std=0.02)
        self.mixer.initialize()
        self.blocks.initialize()
        self.caption_block.initialize()
        if self.fusion is not None:
            self.fusion.initialize()
        for layer in (self.mixer_modulation, self.modulation, self.final_modulation, self.final):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)
        if self.class_token is not None:
            for parameter in self.class_token.output.parameters():
                nn.init.zeros_(parameter)
        if self.image_embedding is not None:
            nn.init.zeros_(self.image_embedding.weight)
        if self.image_level_embedding is not None:
            nn.init.normal_(self.image_level_embedding.fc1.weight, std=0.02)
            nn.init.zeros_(self.image_level_embedding.fc2.weight)


def _check_effects(takes_image_level: bool, image_channels: int, mixer_convolution: bool, mixer_depth: int) -> None:
    """Raise ValueError for an argument that has no effect beside another."""
    if takes_image_level and not image_channels:
        raise ValueError("takes_image_level has no effect with image_channels=0; set takes_image_level=false")
    if mixer_convolution and not mixer_depth:
        raise ValueError("mixer_convolution has no effect with mixer_depth=0; set mixer_convolution=false")


def _width_map(dim_in: int, dim_out: int, eps: float) -> nn.Module:
    """LayerNorm and a linear map between the widths of backbone and mixer; nothing where they agree."""
    if dim_in == dim_out:
        return nn.Identity()
    return nn.Sequential(nn.LayerNorm(dim_in, eps=eps, bias=False), nn.Linear(dim_in, dim_out, bias=False))
