"""Keeps a training step whose loss or gradient is no number away from the weights, the average and the optimizer."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from composer import Callback, Logger, State
from composer.core import Precision
from composer.utils import dist, ensure_tuple
from torch import Tensor
from torch.distributed.tensor import DTensor

from micro_diffusion.bounds import NonNegativeInt
from micro_diffusion.files.whole_file import whole_file

log = logging.getLogger(__name__)


class NaNGuard(Callback):
    """Stops at a loss or gradient that is not finite, or skips some such batches, before the optimizer's step.

    Every rank then writes the keys of its part of the batch to `step_<number>_rank<number>.json`.

    Args:
        folder: for these files.
        max_skipped_batches: how many batches of a run may be left out before the next one stops it.
    """

    def __init__(self, *, folder: str, max_skipped_batches: NonNegativeInt) -> None:
        self.folder = Path(folder)
        self.max_skipped_batches = max_skipped_batches
        self.skipped = 0
        self._loss = 0.0

    def before_train_batch(self, state: State, logger: Logger) -> None:
        """Forget the batch before."""
        self._loss = 0.0

    def after_loss(self, state: State, logger: Logger) -> None:
        """Add the loss of a microbatch, which leaves a sum that is no number where one of them is not."""
        losses = state.loss.values() if isinstance(state.loss, Mapping) else ensure_tuple(state.loss)
        self._loss = self._loss + torch.stack([value.detach().mean() for value in losses]).sum()

    def after_train_batch(self, state: State, logger: Logger) -> None:
        """Look at the losses and the gradients of a step on all ranks.

        Raises:
            FloatingPointError: on all of them, when no more batches may be skipped.
            OSError: when the keys of such a batch cannot be written.
        """
        # in fp16 a gradient overflows now and then, and the scaler then passes over the step
        norm = torch.zeros(()) if state.precision == Precision.AMP_FP16 else gradient_norm(state)
        finite = torch.isfinite(norm) & torch.isfinite(torch.as_tensor(self._loss, device=norm.device))
        bad = state.device.tensor_to_device((~finite).int().reshape(1))
        dist.all_reduce(bad, reduce_operation="MAX")
        if not bad.item():
            return
        found = f"loss {float(self._loss)}, gradient norm {norm.item()}"
        time = state.timestamp
        place = f"at step {time.batch.value} (batch {time.batch_in_epoch.value} of epoch {time.epoch.value})"
        path = self._write_keys(state, place, found)
        if self.skipped >= self.max_skipped_batches:
            raise FloatingPointError(
                f"the loss or gradient is not finite {place}: {found} on rank {dist.get_global_rank()}; "
                f"look at the samples whose keys are in {path}, lower optimizer.lr, or raise "
                f"callbacks.nan_guard.max_skipped_batches from {self.max_skipped_batches}"
            )
        self.skipped += 1
        for parameter in _trained(state):
            parameter.grad = None  # which the optimizer passes over, moments and weight decay included
        log.warning(
            "skipped the batch %s: %s; its keys are in %s; %d of at most %d",
            place, found, path, self.skipped, self.max_skipped_batches,
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """The count goes on after a restart."""
        return {"skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the count of a checkpoint."""
        self.skipped = state["skipped"]

    def _write_keys(self, state: State, place: str, found: str) -> Path:
        rank, step = dist.get_global_rank(), state.timestamp.batch.value
        path = self.folder / f"step_{step:07d}_rank{rank}.json"
        content = {"step": step, "rank": rank, "found": found}
        content |= {name: list(state.batch[name]) for name in ("key", "caption") if name in state.batch}
        try:
            with whole_file(path) as unfinished:
                unfinished.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        except OSError as error:
            raise OSError(
                f"the loss or gradient is not finite {place}: {found} on rank {rank}; besides, the keys of its samples "
                f"cannot be written to {path} ({error}); see to that folder and its disk"
            ) from error
        return path


def gradient_norm(state: State) -> Tensor:
    """Norm of this rank's gradients, (); not finite when any of their numbers is not."""
    gradients = [parameter.grad for parameter in _trained(state) if parameter.grad is not None]
    local = [gradient.to_local() if isinstance(gradient, DTensor) else gradient for gradient in gradients]
    if not local:
        return torch.tensor(0.0)
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(local)).float())


def _trained(state: State) -> list[Tensor]:
    return [p for optimizer in state.optimizers for group in optimizer.param_groups for p in group["params"]]
