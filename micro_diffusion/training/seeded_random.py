"""Random numbers of training that follow from (seed, step, place in the batch), whatever was drawn before.

A resumed run so draws what the uninterrupted one would have drawn, evaluations can be compared, and a batch has the
same random numbers on however many ranks it is shared.
Legend: B samples of a batch on this rank.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor


def generator_for(*origin: int | str) -> torch.Generator:
    """A CPU generator seeded by a hash of its origin, so that near-by origins share nothing."""
    digest = hashlib.blake2b("/".join(map(str, origin)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


class Draws(NamedTuple):
    """Sources of the random numbers of one batch.

    shared: in the same state on every rank, for what the whole batch has in common.
    samples: one generator for each of the B samples.
    places: (B,) int64, where they stand in the batch of all ranks.
    total: samples of the batch of all ranks, without repeats.
    step: of the training, from 0. progress: the share of the training that is done.
    """

    shared: torch.Generator
    samples: list[torch.Generator]
    places: Tensor
    total: int
    step: int = 0
    progress: float = 0.0

    @classmethod
    def of(
        cls, *origin: int | str, size: int, rank: int = 0, ranks: int = 1, step: int = 0, progress: float = 0.0
    ) -> Draws:
        """For the `size` samples of a rank; like a pack of cards, a batch is dealt to the ranks in turn."""
        places = [place * ranks + rank for place in range(size)]
        samples = [generator_for(*origin, place) for place in places]
        return cls(generator_for(*origin, "shared"), samples, torch.tensor(places), size * ranks, step, progress)

    def normal(self, *shape: int) -> Tensor:
        """(B, *shape) standard normal, each sample's row from its own generator."""
        rows = torch.empty(len(self.samples), *shape)
        for row, generator in zip(rows, self.samples, strict=True):
            row.normal_(generator=generator)
        return rows

    def uniform(self, *shape: int) -> Tensor:
        """(B, *shape) uniform in [0, 1), likewise."""
        rows = torch.empty(len(self.samples), *shape)
        for row, generator in zip(rows, self.samples, strict=True):
            row.uniform_(generator=generator)
        return rows
