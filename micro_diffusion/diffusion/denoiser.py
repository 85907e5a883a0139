"""The keystone type: objectives export it, guidance wraps it, samplers consume it."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Denoiser = Callable[[Tensor, float], Tensor]
"""(x_noisy (B, C, h, w), sigma) -> x_clean (B, C, h, w), with x_noisy = x + sigma·n in latent units.

sigma is a number, so that the host can choose by it without waiting for a GPU.
"""
