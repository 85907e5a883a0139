"""Patch masking: which patches a training step shows to the transformer.

Legend: B batch, T patches, K kept patches, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor


def kept_patches(patches: int, mask_ratio: float) -> int:
    """T, share of patches to drop -> K.

    Raises ValueError when the ratio lies outside [0, 1) or keeps no patch.
    """
    if not 0 <= mask_ratio < 1:
        raise ValueError(f"mask ratio is {mask_ratio}; choose a value from 0 up to, but not including, 1")
    kept = int(patches * (1 - mask_ratio))
    if kept < 1:
        raise ValueError(
            f"mask ratio {mask_ratio} keeps none of {patches} patches; lower it below {1 - 1 / patches:.3f}"
        )
    return kept


def random_keep(uniform: Tensor, mask_ratio: float) -> Tensor:
    """Independent uniform numbers (B, T) -> patches to keep (B, K) int64, every choice of K as likely."""
    return uniform.argsort(dim=1)[:, : kept_patches(uniform.shape[1], mask_ratio)]


def keep_tokens(tokens: Tensor, keep: Tensor) -> Tensor:
    """(B, T, D), (B, K) -> (B, K, D)."""
    batch, patches, dim = tokens.shape
    rows = keep + torch.arange(batch, device=keep.device)[:, None] * patches
    return tokens.reshape(-1, dim).index_select(0, rows.reshape(-1)).unflatten(0, keep.shape)


def restore_tokens(kept: Tensor, keep: Tensor, patches: int) -> Tensor:
    """(B, K, D), (B, K) -> (B, T, D) with zeros where no patch was kept; undoes `keep_tokens`."""
    batch, _, dim = kept.shape
    rows = keep + torch.arange(batch, device=keep.device)[:, None] * patches
    tokens = kept.new_zeros(batch * patches, dim)
    return tokens.index_copy(0, rows.reshape(-1), kept.flatten(0, 1)).unflatten(0, (batch, patches))


def put_back(tokens: Tensor, kept: Tensor, keep: Tensor) -> Tensor:
    """(B, T, D), (B, K, D), (B, K) -> (B, T, D): the kept tokens in their places, the others as they were."""
    batch, patches, dim = tokens.shape
    rows = keep + torch.arange(batch, device=keep.device)[:, None] * patches
    return tokens.reshape(-1, dim).index_copy(0, rows.reshape(-1), kept.flatten(0, 1)).view_as(tokens)


def visible(keep: Tensor, patches: int) -> Tensor:
    """(B, K) -> (B, T) bool, true on kept patches."""
    mask = torch.zeros(keep.shape[0], patches, dtype=torch.bool, device=keep.device)
    return mask.scatter(1, keep, True)
