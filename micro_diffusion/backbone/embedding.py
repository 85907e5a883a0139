"""What enters the transformer: patches, their positions, the noise level and the caption.

Legend: B batch, C latent channels, h w latent cells, p patch side, T patches, D width, L caption tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class GeluMlp(nn.Module):
    """fc1 → GELU (tanh form) → optional LayerNorm → fc2, with biases; for noise levels and captions."""

    def __init__(self, in_dim: int, dim: int, *, normalize: bool, eps: float = 1e-6) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_dim, dim)
        self.norm = nn.LayerNorm(dim, eps=eps, bias=False) if normalize else nn.Identity()
        self.fc2 = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_dim) -> (..., dim)."""
        return self.fc2(self.norm(functional.gelu(self.fc1(x), approximate="tanh")))


class NoiseEmbedding(GeluMlp):
    """A noise level as seen by the network (c_noise, any real number) to a vector of width D."""

    features = 512
    max_period = 10_000.0

    def __init__(self, dim: int) -> None:
        super().__init__(self.features, dim, normalize=False)

    def forward(self, level: Tensor) -> Tensor:
        """(B,) -> (B, D)."""
        return super().forward(sinusoidal_features(level, self.features, self.max_period).to(self.fc1.weight.dtype))


def image_level_told(sigma: Tensor) -> Tensor:
    """A conditioning image's noise std sigma (B,) -> ln(sigma)/4, as networks are told of levels; 1e-4 stands for 0."""
    return sigma.float().clamp(min=1e-4).log() / 4


def sinusoidal_features(level: Tensor, features: int, max_period: float) -> Tensor:
    """(B,) -> (B, features): cos then sin of level·exp(−ln(max_period)·i/half) (Vaswani et al. 2017, §3.5)."""
    half = features // 2
    frequencies = torch.exp(-math.log(max_period) * torch.arange(half, device=level.device) / half)
    angles = level.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def patch_grid(
    input_size: int | Sequence[int], patch: int, position_scale: float
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Latents of a side, or of (height, width), in cells -> (h, w), and the (rows, columns) of their patches.

    Raises ValueError when the size is no multiple of the patch, or the scale of positions not positive and finite.
    """
    height, width = (input_size, input_size) if isinstance(input_size, int) else input_size
    if min(height, width) < 1 or height % patch or width % patch:
        raise ValueError(f"input_size {height}×{width} is no multiple of patch_size={patch}; choose multiples")
    if not 0 < position_scale < math.inf:
        raise ValueError(f"position_scale is {position_scale}; set it above 0, as 1 at 256 px and 2 at 512 px")
    return (height, width), (height // patch, width // patch)


def scale_for(size: tuple[int, int], built_for: tuple[int, int], position_scale: float) -> float:
    """The scale of positions at another size (h, w), with which they span the same area as at `built_for`."""
    return position_scale * math.sqrt(math.prod(size) / math.prod(built_for))


def other_sizes(
    sizes: Sequence[Sequence[int]] | None, input_size: tuple[int, int], patch: int
) -> tuple[tuple[int, int], ...]:
    """Of a backbone's `further_sizes`, (height, width) in cells each, those that are not its `input_size`.

    Raises ValueError when one is no pair of multiples of the patch.
    """
    pairs = [tuple(size) for size in sizes or ()]
    if wrong := [pair for pair in pairs if len(pair) != 2]:
        raise ValueError(f"backbone.further_sizes has {list(wrong[0])}; write each size as [height,width]")
    checked = [patch_grid(pair, patch, 1.0)[0] for pair in pairs]
    return tuple(dict.fromkeys(size for size in checked if size != input_size))


def check_sizes(known: Sequence[tuple[int, int]] | None, sizes: Sequence[tuple[int, int]]) -> None:
    """Compare the `sizes` of all latents that there will be with those that a backbone takes; None takes any.

    Raises:
        ValueError: that says what to set.
    """
    if known is None or set(sizes) <= set(known):
        return
    has, takes = (" and ".join(f"{height}×{width}" for height, width in each) for each in (sizes, known))
    main = known[0] if known[0] in sizes else sizes[0]
    further = [list(size) for size in sizes if size != main]
    settings = [] if main == known[0] else [f"backbone.input_size={list(main)}"]
    settings += [f"backbone.further_sizes={further}"] if further else []
    raise ValueError(
        f"the data have latents of {has} cells, but the network was built for {takes}; set "
        + " ".join(settings).replace(", ", ",")
    )


def check_latents(x: Tensor, in_channels: int, sizes: Sequence[tuple[int, int]]) -> None:
    """Raise ValueError when x (B, C, h, w) does not have the channels and a size that a network was built for."""
    channels, *size = x.shape[1:]
    if channels != in_channels or tuple(size) not in sizes:
        built_for = " or ".join(str((in_channels, *known)) for known in sizes)
        raise ValueError(
            f"latents are {(channels, *size)} (channels, height, width), but the network was built for {built_for}; "
            "use latents of that shape or build the network for these"
        )


def patchify(x: Tensor, patch: int) -> Tensor:
    """(B, C, h, w) -> (B, T, p·p·C): patches row by row, each ordered (row, column, channel).

    Raises ValueError when h or w is no multiple of p.
    """
    batch, channels, height, width = x.shape
    if height % patch or width % patch:
        raise ValueError(f"latents of {height}×{width} cells cannot be cut into patches of {patch}; choose multiples")
    x = x.reshape(batch, channels, height // patch, patch, width // patch, patch)
    return x.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(tokens: Tensor, patch: int, height: int, width: int) -> Tensor:
    """(B, T, p·p·C) -> (B, C, h, w); the inverse of `patchify`."""
    batch, _, features = tokens.shape
    channels = features // patch**2
    tokens = tokens.reshape(batch, height // patch, width // patch, patch, patch, channels)
    return tokens.permute(0, 5, 1, 3, 2, 4).reshape(batch, channels, height, width)


def sincos_positions(rows: int, columns: int, dim: int, scale: float) -> Tensor:
    """Fixed 2-D positions -> (rows·columns, dim); the column (width) axis fills the first half of the vector.

    scale: a grid index is divided by it: 1 where training begins, 2 at twice the resolution, so that an image's
    content keeps its positions.
    Raises ValueError when dim is no multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"the network's width {dim} must be a multiple of 4 for two-dimensional positions")
    row_code = _axis_code(torch.arange(rows, dtype=torch.float64) / scale, dim // 2)
    column_code = _axis_code(torch.arange(columns, dtype=torch.float64) / scale, dim // 2)
    grid = [column_code[None].expand(rows, -1, -1), row_code[:, None].expand(-1, columns, -1)]
    return torch.cat(grid, dim=-1).reshape(rows * columns, dim).float()


def rotary_angles(rows: int, columns: int, head_dim: int, scale: float) -> Tensor:
    """Angles of two-dimensional rotary positions (Su et al. 2021, arXiv 2104.09864) -> (rows·columns, head_dim/2).

    The first half turns with the column, the second with the row, at frequencies from pi down to pi/100 per grid index.
    scale: a grid index is divided by it, as in `sincos_positions`.
    Raises ValueError when head_dim is no multiple of 4.
    """
    if head_dim % 4:
        raise ValueError(f"head_dim={head_dim} must be a multiple of 4 for two-dimensional rotary positions")
    frequency = math.pi * 100.0 ** -(torch.arange(head_dim // 4, dtype=torch.float64) / (head_dim / 4))
    column = (torch.arange(columns, dtype=torch.float64) / scale)[:, None] * frequency
    row = (torch.arange(rows, dtype=torch.float64) / scale)[:, None] * frequency
    grid = [column[None].expand(rows, -1, -1), row[:, None].expand(-1, columns, -1)]
    return torch.cat(grid, dim=-1).reshape(rows * columns, head_dim // 2).float()


def _axis_code(position: Tensor, dim: int) -> Tensor:
    """(n,) -> (n, dim): sin then cos of position·10000^(−2i/dim)."""
    frequency = 10_000.0 ** -(torch.arange(dim // 2, dtype=torch.float64) / (dim / 2))
    angle = position[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)
