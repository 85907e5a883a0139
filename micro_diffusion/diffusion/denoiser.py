"""The keystone type: objectives export it, guidance wraps it, samplers consume it."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

NoiseLevel = float | Tensor
"""A number for the whole batch, by which the host can choose without waiting for a GPU, or a tensor () or (B,)."""

Denoiser = Callable[[Tensor, NoiseLevel], Tensor]
"""(x_noisy (B, C, h, w), sigma) -> x_clean (B, C, h, w), with x_noisy = x + sigma·n in latent units."""
