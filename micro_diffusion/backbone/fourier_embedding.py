"""A noise level in [0, 1] as transformer latent diffusion embeds it. Legend: B batch, E width."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class FourierEmbedding(nn.Module):
    """A noise level in [0, 1] -> sines and cosines -> Linear → exact GELU → Linear."""

    frequency_bits: Tensor

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        if features < 2 or features % 2:
            raise ValueError(f"backbone.noise_features is {features}; set it to an even number of at least 2")
        self.fc1, self.fc2 = nn.Linear(features, dim), nn.Linear(dim, dim)
        # Up to 6283, where half precision counts in fours; as integers they stay fp32 whatever dtype the model gets.
        self.register_buffer("frequency_bits", frequencies(features).view(torch.int32), persistent=False)

    def forward(self, level: Tensor) -> Tensor:
        """(B,) -> (B, E)."""
        angles = level.float()[:, None] * self.frequency_bits.view(torch.float32)
        features = torch.cat([angles.sin(), angles.cos()], dim=1)
        return self.fc2(functional.gelu(self.fc1(features.to(self.fc1.weight.dtype))))


def frequencies(features: int) -> Tensor:
    """2π·exp of a straight line from ln 1 to ln 1000 -> (features / 2,), in the forerunner's fp32 arithmetic."""
    return 2 * math.pi * torch.exp(torch.linspace(0.0, math.log(1000.0), features // 2))
