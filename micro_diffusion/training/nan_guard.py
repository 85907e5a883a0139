"""Stops a training whose loss is no number any more, before the weights and the average are lost to it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from composer import Callback, Logger, State
from composer.utils import dist, ensure_tuple


class NaNGuard(Callback):
    """Raises FloatingPointError before the backward pass of a microbatch whose loss is not finite."""

    def after_loss(self, state: State, logger: Logger) -> None:
        """Check the loss of a microbatch."""
        losses = state.loss.values() if isinstance(state.loss, Mapping) else ensure_tuple(state.loss)
        loss = torch.stack([value.detach().mean() for value in losses]).sum()
        if torch.isfinite(loss):
            return
        time, captions = state.timestamp, state.batch.get("caption", [])
        shown = f", first caption {captions[0]!r}" if captions else ""
        raise FloatingPointError(
            f"the loss is {loss.item()} at step {time.batch.value} (batch {time.batch_in_epoch.value} of epoch "
            f"{time.epoch.value}, rank {dist.get_global_rank()}{shown}); lower optimizer.lr or look at that batch; "
            "the same command goes on from the last checkpoint"
        )
