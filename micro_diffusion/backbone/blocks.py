"""The ways of tokens through a stack of blocks: all through all, some around some, each block computed once or twice.

Legend: B batch, T patches, K kept patches, L caption tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from micro_diffusion.backbone.attention import KeysValues
from micro_diffusion.backbone.block import Block, Modulation
from micro_diffusion.backbone.masking import keep_tokens, put_back, restore_tokens, visible


class Fusion(nn.Module):
    """Joins what went around blocks with what went through them: a linear map of both, side by side.

    Park et al. 2025, "SPRINT", arXiv 2510.21986, section 3.2: where a token went around, a learned one stands for what
    the blocks would have made of it; every token keeps what it was before, so that the blocks need not carry details.
    It begins as what the blocks made, so that a network without masks begins as it would without fusion.

    Args:
        dim: D.
        drop: probability that, in training, nothing of an image was on the route (there, section 3.4), so that sampling
            can lead away from that; see `AroundRoute`. It is drawn as torch draws, on the device.
    """

    def __init__(self, dim: int, *, drop: float = 0.0) -> None:
        super().__init__()
        self.drop = drop
        self.absent = nn.Parameter(torch.zeros(dim))
        self.both = nn.Linear(2 * dim, dim, bias=False)

    def forward(self, before: Tensor, made: Tensor, keep: Tensor | None) -> Tensor:
        """before (B, T, D), made (B, K, D) of the tokens keep (B, K), or of all (B, T, D) for None -> (B, T, D)."""
        absent = self.absent.to(made.dtype)
        if keep is not None:
            patches = before.shape[1]
            made = torch.where(visible(keep, patches)[:, :, None], restore_tokens(made, keep, patches), absent)
        if self.training and self.drop:
            dropped = torch.rand(len(made), 1, 1, device=made.device) < self.drop
            made = torch.where(dropped, absent, made)
        return self.both(torch.cat([before, made.to(before.dtype)], dim=-1))

    def initialize(self) -> None:
        """The identity on what the blocks made, and nothing of what there was before."""
        nn.init.zeros_(self.absent)
        before, made = self.both.weight.chunk(2, dim=1)
        nn.init.zeros_(before)
        nn.init.eye_(made)


class Blocks(nn.ModuleList):
    """Blocks one after another.

    Args:
        blocks: of one width. Where one has a value residual, the first gives its values to it.
        route: (first, end), blocks around which tokens go that are not kept; None for none.
        activation_checkpointing: whether what enters a block is all that is kept of it for the backward pass.

    Raises:
        ValueError: for a route that is none of so many blocks, or value residuals that lack what they need.
    """

    def __init__(
        self, blocks: Iterable[Block], *, route: Sequence[int] | None = None, activation_checkpointing: bool = False
    ) -> None:
        super().__init__(blocks)
        self.route = _checked_route(route, len(self))
        self.activation_checkpointing = activation_checkpointing
        self.value_residual = any(block.value_mix is not None for block in self)
        if self.value_residual and len({block.attention.qkv.out_features for block in self}) > 1:
            raise ValueError("value_residual needs one attention width; set qkv_ratio to one value for all blocks")
        if self.value_residual and route is not None:
            raise ValueError("value_residual does not go with a route, since all tokens need values; leave out one")

    if TYPE_CHECKING:  # at run time the compiler wants the iterator of ModuleList itself

        def __iter__(self) -> Iterator[Block]:
            """They are blocks and nothing else."""
            ...

    def keys_values(self, caption: Tensor, null: Tensor) -> list[KeysValues]:
        """Captions (N, L, D) and one row of each null caption (M, 1, D) -> what each block attends to."""
        return [block.cross_attention.keys_values(caption, null) for block in self]

    def initialize(self) -> None:
        """Every block as for its place."""
        for depth, block in enumerate(self):
            block.initialize(depth)

    def through(
        self,
        tokens: Tensor,
        conditioning: Sequence[Tensor | Modulation],
        caption: Sequence[Tensor | KeysValues],
        mask: Tensor | None,
        *,
        grid: tuple[int, int] | None = None,
        angles: Tensor | None = None,
        keep: Tensor | None = None,
        fusion: Fusion | None = None,
    ) -> Tensor:
        """All blocks.

        Args:
            tokens: (B, T, D); without a route those that are kept, (B, K, D).
            conditioning: for each block the c that it takes, or the modulation that follows from it.
            caption: for each block what it attends to, (B, L, D) or its keys and values.
            mask: of the caption, (B, L) bool, or None.
            grid: rows and columns of patches, where tokens are all of them.
            angles: (T, head_dim/2) rotary positions, or None for none.
            keep: (B, K) which patches are kept, none with a fusion where K is 0, or None for all.
            fusion: joins the tokens around the route with those that were on it, also where all were; None puts the
                latter in their places.

        Returns:
            The shape of `tokens`.
        """
        told = list(zip(conditioning, caption, strict=True))
        depth, kept_angles = len(self), angles if angles is None or keep is None else angles[keep]
        if self.route is None or (keep is None and fusion is None):
            return self._some(range(depth), tokens, told, mask, grid=grid, angles=kept_angles)
        first, end = self.route
        tokens = self._some(range(first), tokens, told, mask, grid=grid, angles=angles)
        kept = tokens if keep is None else keep_tokens(tokens, keep)
        made = self._some(range(first, end), kept, told, mask, angles=kept_angles) if kept.shape[1] else kept
        if fusion is not None:
            tokens = fusion(tokens, made, keep)
        else:
            tokens = made if keep is None else put_back(tokens, made, keep)
        return self._some(range(end, depth), tokens, told, mask, grid=grid, angles=angles)

    def _some(
        self, places: range, tokens: Tensor, told: Sequence[tuple[Any, Any]], mask: Tensor | None, **options: Any
    ) -> Tensor:
        """The blocks at these places."""
        values = {}
        for i in places:
            block: Any = self[i]
            c, caption = told[i]
            if self.value_residual and i == 0:
                values = {"first_values": block.values(tokens, c)}
            tokens = self._run(block, tokens, c, caption, mask, **options, **values)
        return tokens

    def _run(self, block: Block, *inputs: Any, **options: Any) -> Tensor:
        """One block, checkpointed where that was asked for and a backward pass will come."""
        if self.activation_checkpointing and torch.is_grad_enabled():
            from torch.utils.checkpoint import checkpoint  # imports sympy: seconds that generating need not wait for

            again = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)  # a block draws nothing
            return again(block, *inputs, **options)  # pyright: ignore[reportReturnType]
        return block(*inputs, **options)


def _checked_route(route: Sequence[int] | None, depth: int) -> tuple[int, int] | None:
    """Raise ValueError for a route that is none of a backbone so deep."""
    if route is None:
        return None
    if len(route) != 2 or not 0 <= route[0] < route[1] <= depth:
        raise ValueError(f"route is {list(route)}; set it to [first, end] with 0 <= first < end <= depth={depth}")
    return route[0], route[1]
