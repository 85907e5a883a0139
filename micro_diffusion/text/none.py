"""No captions at all: for networks that are trained without. Legend: B captions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from micro_diffusion.condition import Condition


class NoEncoder:
    """Whatever a caption says, its one token is the null condition: a single 0."""

    def __init__(self, *, dim: int = 1) -> None:
        """dim: 1, so that networks can follow the config as with any encoder."""
        if dim != 1:
            raise ValueError(f"text_encoder.dim is {dim}, but no captions have width 1; set text_encoder.dim=1")
        self.name = "none"
        self.provenance: dict[str, Any] = {}
        self.dim = self.max_length = 1

    def encode(self, captions: Sequence[str]) -> Condition:
        """B captions -> tokens (B, 1, 1) of zeros and mask (B, 1), true."""
        return Condition(torch.zeros(len(captions), 1, 1), torch.ones(len(captions), 1, dtype=torch.bool))

    def to(self, device: torch.device) -> None:
        """There are no weights to move."""
