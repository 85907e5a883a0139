"""Random numbers of training that follow from (seed, step, rank), whatever was drawn before.

A resumed run so draws what the uninterrupted one would have drawn, and evaluations can be compared.
"""

from __future__ import annotations

import hashlib

import torch
from composer import Callback, Logger, State
from composer.utils import dist

from micro_diffusion.training.trainable import trained_model


def generator_for(*origin: int | str) -> torch.Generator:
    """A CPU generator seeded by a hash of its origin, so that near-by origins share nothing."""
    digest = hashlib.blake2b("/".join(map(str, origin)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


class SeededDraws(Callback):
    """Lets the model draw for each whole batch, before Composer cuts it into microbatches.

    Args:
        seed: of the run; any integer.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def after_dataloader(self, state: State, logger: Logger) -> None:
        """Draw for a training step."""
        generator = generator_for(self.seed, "train", state.timestamp.batch.value, dist.get_global_rank())
        state.batch = trained_model(state.model).draw(state.batch, generator)

    def eval_batch_start(self, state: State, logger: Logger) -> None:
        """Draw for an evaluation batch: the same for its n-th batch at every evaluation."""
        generator = generator_for(self.seed, "eval", state.eval_timestamp.batch.value, dist.get_global_rank())
        state.batch = trained_model(state.model).draw_eval(state.batch, generator)
