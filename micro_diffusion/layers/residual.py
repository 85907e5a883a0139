"""The residual block of convolutional networks, with weight-standardised or plain convolutions.

Legend: B images, C channels, h w height and width, E width of a vector that steers the block, such as a noise level's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class StandardisedConv2d(nn.Conv2d):
    """A convolution whose filters have mean 0 and variance 1 (Qiao et al. 2019, arXiv 1903.10520, equation 4).

    Mean and biased variance are those of each output channel's filter.
    """

    eps = 1e-5

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C', h', w')."""
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), correction=0, keepdim=True)
        return self._conv_forward(input, (self.weight - mean) * (variance + self.eps).rsqrt(), self.bias)


class ConvolutionUnit(nn.Module):
    """3×3 convolution, GroupNorm, an optional scale and shift, SiLU."""

    def __init__(self, in_channels: int, out_channels: int, *, groups: int, standardised: bool) -> None:
        super().__init__()
        kind = StandardisedConv2d if standardised else nn.Conv2d
        self.convolution = kind(in_channels, out_channels, 3, padding=1)
        self.norm = nn.GroupNorm(groups, out_channels)

    def forward(self, x: Tensor, scale_shift: Tensor | None = None) -> Tensor:
        """x (B, C, h, w), scale_shift (B, 2·C') or None -> (B, C', h, w)."""
        y = self.norm(self.convolution(x))
        if scale_shift is not None:
            scale, shift = scale_shift[:, :, None, None].chunk(2, dim=1)
            y = y * (1 + scale) + shift
        return functional.silu(y)


class ResidualBlock(nn.Module):
    """Two units around which a shortcut leads; a 1×1 convolution where the widths differ (He et al. 2016).

    Args:
        in_channels: C.
        out_channels: C'.
        groups: of each GroupNorm; divides C'.
        standardised: whether the 3×3 convolutions are weight-standardised, which goes well with GroupNorm.
        steering_dim: E; None for a block that nothing steers.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        groups: int,
        standardised: bool = True,
        steering_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.steering = None if steering_dim is None else nn.Linear(steering_dim, 2 * out_channels)
        self.unit1 = ConvolutionUnit(in_channels, out_channels, groups=groups, standardised=standardised)
        self.unit2 = ConvolutionUnit(out_channels, out_channels, groups=groups, standardised=standardised)
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, vector: Tensor | None = None) -> Tensor:
        """x (B, C, h, w), vector (B, E) for a block with `steering_dim` -> (B, C', h, w).

        The vector scales and shifts the first unit's features (as in ADM; Dhariwal & Nichol 2021, arXiv 2105.05233).
        """
        scale_shift = None
        if self.steering is not None:
            if vector is None:
                raise ValueError("this residual block needs a vector that steers it; call it with one")
            scale_shift = self.steering(functional.silu(vector))
        return self.shortcut(x) + self.unit2(self.unit1(x, scale_shift))


def check_groups(groups: int, **widths: int) -> None:
    """Raise ValueError for the first of these widths that cannot be cut into as many groups."""
    for name, width in widths.items():
        if groups < 1 or width % groups:
            raise ValueError(f"{name} has {width} channels, which do not divide into groups={groups}; change either")
