"""Where the patches of latents lie: the sizes that a network of patches takes, and their positions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from micro_diffusion.backbone.embedding import other_sizes, patch_grid, rotary_angles, scale_for, sincos_positions
from micro_diffusion.bounds import PositiveInt


class SizedPatches(nn.Module):
    """A network that takes latents of certain sizes, in patches.

    `input_size` is the first of them, (h, w) in cells, and `grid` its rows and columns of patches.
    """

    input_size: tuple[int, int]
    grid: tuple[int, int]
    _further_sizes: tuple[tuple[int, int], ...] = ()

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(h, w) of the latents that it takes: `input_size` and the further ones."""
        return self.input_size, *(size for size in self._further_sizes if size != self.input_size)

    @property
    def patches(self) -> int:
        """T, patches of an image."""
        return self.grid[0] * self.grid[1]


class PatchGrid(SizedPatches):
    """A network with positions of its patches, in buffers that are no part of its weights.

    Its constructor calls `place`, with `patch_size`, `dim`, `head_dim` and `rotary` set.
    """

    patch_size: int
    dim: int
    head_dim: int
    rotary: bool
    positions: Tensor
    angles: Tensor | None

    def place(
        self,
        input_size: PositiveInt | Sequence[PositiveInt],
        position_scale: float,
        further_sizes: Sequence[Sequence[PositiveInt]] | None,
    ) -> None:
        """Build the positions for all sizes that the network takes, the further ones spanning the same area.

        Raises ValueError for a size that is no multiple of the patch.
        """
        self.resize(input_size, position_scale)
        self._further_sizes = other_sizes(further_sizes, self.input_size, self.patch_size)
        for size in self._further_sizes:
            self._build_positions(size, scale_for(size, self.input_size, position_scale), _suffix(size))

    def resize(self, input_size: PositiveInt | Sequence[PositiveInt], position_scale: float) -> None:
        """Build the positions for latents of `input_size` cells (a side, or height and width); no weight changes.

        Raises ValueError when the size is no multiple of the patch, or the scale not positive and finite.
        """
        self.input_size, self.grid = patch_grid(input_size, self.patch_size, position_scale)
        self.position_scale = position_scale
        self._build_positions(self.input_size, position_scale)

    def grid_of(self, size: Sequence[int]) -> tuple[int, int]:
        """(rows, columns) of the patches of latents of a size."""
        return size[0] // self.patch_size, size[1] // self.patch_size

    def positions_of(self, size: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Positions (T, dim), and rotary angles (T, head_dim/2) where there are some, of latents of one of `sizes`."""
        suffix = "" if tuple(size) == self.input_size else _suffix(size)
        return getattr(self, f"positions{suffix}"), getattr(self, f"angles{suffix}")

    def _build_positions(self, size: tuple[int, int], scale: float, suffix: str = "") -> None:
        (rows, columns), device = self.grid_of(size), next(self.parameters(), torch.empty(0)).device
        positions = sincos_positions(rows, columns, self.dim, scale)
        self.register_buffer(f"positions{suffix}", positions.to(device), persistent=False)
        angles = rotary_angles(rows, columns, self.head_dim, scale).to(device) if self.rotary else None
        self.register_buffer(f"angles{suffix}", angles, persistent=False)


def _suffix(size: Sequence[int]) -> str:
    """Of the buffers for a further size."""
    return f"_{size[0]}x{size[1]}"
