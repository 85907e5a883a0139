"""How the UNet for pixels changes resolution. Legend: B batch, C channels, h w cells."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import repeat
from torch import Tensor, nn


class CrossEmbedding(nn.Module):
    """Convolutions of several kernels side by side (Wang et al. 2021, CrossFormer, arXiv 2108.00154).

    The smallest kernel makes half of the channels, the next a quarter, and so on; the last makes what is left.

    Args:
        channels_in, channels: before and after.
        kernels: sides; all odd with stride 1, all even with stride 2.
        stride: 1 or 2.

    Raises:
        ValueError: for kernels that would shift the image, or of which one would make no channel.
    """

    def __init__(self, channels_in: int, channels: int, kernels: Sequence[int], stride: int = 1) -> None:
        super().__init__()
        kernels = sorted(kernels)
        if not kernels or any(k < 1 or k % 2 != stride % 2 for k in kernels):
            wanted = "odd" if stride == 1 else "even"
            raise ValueError(f"the kernels are {kernels}; set them to {wanted} numbers, at least one")
        shares = [channels // 2**i for i in range(1, len(kernels))]
        shares.append(channels - sum(shares))
        if min(shares) < 1:
            raise ValueError(f"{channels} channels are too few for the kernels {kernels}; leave some out")
        self.convolutions = nn.ModuleList(
            nn.Conv2d(channels_in, share, k, stride=stride, padding=(k - stride) // 2)
            for k, share in zip(kernels, shares, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, h, w) -> (B, C, h/stride, w/stride)."""
        return torch.cat([convolution(x) for convolution in self.convolutions], dim=1)


def downsampling(channels_in: int, channels: int, kernels: Sequence[int] = ()) -> nn.Module:
    """(B, C_in, h, w) -> (B, C, h/2, w/2): 2×2 cells to channels and a 1×1 convolution, or convolutions of `kernels`.

    Raises ValueError for a kernel that is not even.
    """
    if kernels:
        return CrossEmbedding(channels_in, channels, kernels, stride=2)
    return nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4 * channels_in, channels, 1))


def upsampling(channels_in: int, channels: int, *, pixel_shuffle: bool) -> nn.Module:
    """(B, C_in, h, w) -> (B, C, 2h, 2w): channels to 2×2 cells, or each cell four times and a 3×3 convolution."""
    if not pixel_shuffle:
        return nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(channels_in, channels, 3, padding=1))
    convolution = nn.Conv2d(channels_in, 4 * channels, 1)
    start_with_equal_cells(convolution)
    return nn.Sequential(convolution, nn.SiLU(), nn.PixelShuffle(2))


@torch.no_grad()
def start_with_equal_cells(convolution: nn.Conv2d) -> None:
    """Give the four filters that make 2×2 cells one value, so that no chequered pattern is there to be unlearned.

    Aitken et al. 2017, "Checkerboard artifact free sub-pixel convolution", arXiv 1707.02937.
    """
    one = torch.empty(convolution.weight.shape[0] // 4, *convolution.weight.shape[1:], device=convolution.weight.device)
    nn.init.kaiming_uniform_(one)
    convolution.weight.copy_(repeat(one, "c ... -> (c four) ...", four=4))
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)


class SummedConvolutions(nn.Module):
    """A 3×3 and a 1×1 convolution, added: what stands in the place of the last level's downsampling."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(channels_in, channels, 3, padding=1), nn.Conv2d(channels_in, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, h, w) -> (B, C, h, w)."""
        return self.wide(x) + self.narrow(x)
