"""No captions at all: for networks that are trained without. Legend: B captions, L tokens, D width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from micro_diffusion.bounds import PositiveInt
from micro_diffusion.condition import Condition
from micro_diffusion.text.encoder import check_stated


class NoEncoder:
    """Whatever a caption says, its one token is the null condition: a single 0.

    Args:
        dim, max_length: what the config says D and L are, checked; both are 1.
    """

    def __init__(self, *, dim: PositiveInt = 1, max_length: PositiveInt = 1) -> None:
        self.name = "none"
        self.provenance: dict[str, Any] = {}
        self.dim = self.max_length = 1
        check_stated("no caption", "dim", dim, self.dim)
        check_stated("no caption", "max_length", max_length, self.max_length)

    def encode(self, captions: Sequence[str]) -> Condition:
        """B captions -> tokens (B, 1, 1) of zeros and mask (B, 1), true."""
        return Condition(torch.zeros(len(captions), 1, 1), torch.ones(len(captions), 1, dtype=torch.bool))

    def to(self, device: torch.device) -> None:
        """There are no weights to move."""
