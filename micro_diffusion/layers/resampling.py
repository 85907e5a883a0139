"""Halving and doubling the resolution of features.

Legend: B images, C channels before and C' after, h w height and width before.
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import nn

DownsamplingKind = Literal["average", "max", "convolution"]
UpsamplingKind = Literal["nearest", "bilinear", "bicubic", "transposed"]


class Downsampling(nn.Sequential):
    """(B, C, h, w) -> (B, C', h/2, w/2): pooling and a 3×3 convolution, or one of stride 2; then GroupNorm.

    Args:
        in_channels: C.
        out_channels: C'.
        kind: "average" or "max" of 2×2 cells, or "convolution" with a stride.
    """

    def __init__(self, in_channels: int, out_channels: int, kind: DownsamplingKind) -> None:
        _check("downsampling", kind, get_args(DownsamplingKind))
        pool = {"average": nn.AvgPool2d(2), "max": nn.MaxPool2d(2)}.get(kind)
        convolution = nn.Conv2d(in_channels, out_channels, 3, stride=1 if pool else 2, padding=1)
        super().__init__(pool or nn.Identity(), convolution, _norm(out_channels))


class Upsampling(nn.Sequential):
    """(B, C, h, w) -> (B, C', 2h, 2w): interpolation and a 3×3 convolution, or a transposed one; then GroupNorm.

    Args:
        in_channels: C.
        out_channels: C'.
        kind: "nearest", "bilinear" or "bicubic"; or "transposed", a 4×4 convolution of stride 2, which may leave a
            chequered pattern (Odena et al. 2016, doi 10.23915/distill.00003).
    """

    def __init__(self, in_channels: int, out_channels: int, kind: UpsamplingKind) -> None:
        _check("upsampling", kind, get_args(UpsamplingKind))
        if kind == "transposed":
            enlarge = nn.Identity()
            convolution = nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1)
        else:
            enlarge = nn.Upsample(scale_factor=2, mode=kind)
            convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        super().__init__(enlarge, convolution, _norm(out_channels))


def _norm(channels: int) -> nn.GroupNorm:
    """Groups of 4 channels where they divide so, one group otherwise."""
    return nn.GroupNorm(channels // 4 if channels % 4 == 0 else 1, channels)


def _check(name: str, kind: str, known: tuple[str, ...]) -> None:
    if kind not in known:
        raise ValueError(f"{name} is {kind!r}; set it to one of {', '.join(known)}")
