"""Blocks of the UNet for pixels: norms, convolutions told the noise level, the gate by global context.

Saharia et al. 2022, "Photorealistic Text-to-Image Diffusion Models" (Imagen), arXiv 2205.11487, appendix B.
Legend: B batch, C channels, h w cells, L context rows, D context width, E width of the level's vector.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from micro_diffusion.backbone.pixel_attention import CrossAttention

EPSILON = 1e-12
"""Added to the mean square of a cell's channels."""


class ChannelRmsNorm(nn.Module):
    """Each cell's channels divided by their root mean square, times a learned gain; no mean is taken off."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> the same."""
        cells = rearrange(x, "b c h w -> b h w c")
        cells = functional.rms_norm(cells, self.gain.shape, self.gain.to(x.dtype), EPSILON)
        return rearrange(cells, "b h w c -> b c h w")


def image_norm(channels: int, groups: int) -> nn.Module:
    """Group norm (Wu & He 2018, arXiv 1803.08494) of so many groups, or with 0 the RMS norm of each cell.

    Raises ValueError when the channels do not divide among the groups.
    """
    if groups and channels % groups:
        raise ValueError(f"{channels} channels do not divide among norm_groups={groups}; choose a divisor, or 0")
    return nn.GroupNorm(groups, channels) if groups else ChannelRmsNorm(channels)


class ConvBlock(nn.Module):
    """Norm, scale and shift, SiLU, 3×3 convolution."""

    def __init__(self, channels_in: int, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = image_norm(channels_in, groups)
        self.convolution = nn.Conv2d(channels_in, channels, 3, padding=1)

    def forward(self, x: Tensor, scale_shift: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """(B, C_in, h, w), scale and shift (B, C_in, 1, 1) each, or None for neither -> (B, C, h, w)."""
        x = self.norm(x)
        if scale_shift is not None:
            scale, shift = scale_shift
            x = torch.addcmul(shift.to(x.dtype), x, (1 + scale).to(x.dtype))
        return self.convolution(functional.silu(x))


class GlobalContextGate(nn.Module):
    """Each channel times a number in (0, 1) that follows from the whole image (Cao et al. 2019, arXiv 1904.11492).

    The cells are averaged with softmax weights of their own, where squeeze-and-excitation takes their plain mean.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.score = nn.Conv2d(channels, 1, 1)
        self.fc1 = nn.Linear(channels, max(3, channels // 2))
        self.fc2 = nn.Linear(max(3, channels // 2), channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> the same, gated."""
        weight = rearrange(self.score(x), "b 1 h w -> b (h w) 1").softmax(dim=1)
        pooled = (rearrange(x, "b c h w -> b c (h w)") @ weight.to(x.dtype)).squeeze(-1)
        gate = self.fc2(functional.silu(self.fc1(pooled))).sigmoid()
        return x * rearrange(gate, "b c -> b c 1 1")


class ResidualBlock(nn.Module):
    """Two convolutions around an optional cross-attention; the second is told the level, and may be gated.

    Args:
        channels_in, channels: before and after; a 1×1 convolution carries the input past the block where they differ.
        level_dim: E.
        groups: of the norms; see `image_norm`.
        attention: to the context, at `channels`; None for none.
        gated: by global context.
    """

    def __init__(
        self,
        channels_in: int,
        channels: int,
        *,
        level_dim: int,
        groups: int,
        attention: CrossAttention | None = None,
        gated: bool = False,
    ) -> None:
        super().__init__()
        self.level = nn.Linear(level_dim, 2 * channels)
        self.first = ConvBlock(channels_in, channels, groups)
        self.attention = attention
        self.second = ConvBlock(channels, channels, groups)
        self.gate = GlobalContextGate(channels) if gated else nn.Identity()
        self.shortcut = nn.Identity() if channels_in == channels else nn.Conv2d(channels_in, channels, 1)

    def forward(self, x: Tensor, level: Tensor, context: Tensor) -> Tensor:
        """x (B, C_in, h, w), level (B, E), context (B, L, D) -> (B, C, h, w)."""
        scale, shift = rearrange(self.level(functional.silu(level)), "b (two c) -> two b c 1 1", two=2)
        y = self.first(x)
        if self.attention is not None:
            y = y + self.attention(y, context)
        return self.gate(self.second(y, (scale, shift))) + self.shortcut(x)
