"""What every model offers that `train` can fit."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import torch
from composer import ComposerModel
from torch import Tensor, nn

from micro_diffusion.backbone.backbone import ParameterGroup
from micro_diffusion.checkpoint import Weights
from micro_diffusion.machine.precision import Precision, autocast
from micro_diffusion.training.seeded_random import Draws

Batch = dict[str, Any]
"""One collated batch: tensors and lists whose first axis counts the samples."""


@runtime_checkable
class Trainable(Protocol):
    """A ComposerModel that draws its random numbers only when told to, and saves what its run is for.

    Attributes:
        network: the weights that training is about; averaged by EMA and started from an earlier run.
    """

    network: nn.Module

    def parameter_groups(self) -> list[ParameterGroup]:
        """Every trainable parameter, exactly once."""
        ...

    def draw(self, batch: Batch, draws: Draws) -> Batch:
        """A new batch with every random number of a training step added, drawn on the CPU."""
        ...

    def draw_eval(self, batch: Batch, draws: Draws) -> Batch:
        """The same for evaluation, where the draws are the same at every call for the same batch."""
        ...

    def save(self, folder: Path, weights: Weights, state: dict[str, Tensor], batches: Iterable[Batch]) -> None:
        """Write what later stages and programs need into the run folder.

        state: the network's, in one piece. batches: this rank's training data, for what is measured on them.
        """
        ...


class NetworkOnCpu:
    """A model whose networks have a precision of their own on a CPU, where Composer knows fp32 only."""

    cpu_precision: Precision

    def cpu_autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """The precision of the networks on a CPU; elsewhere Composer's holds."""
        return autocast("cpu", self.cpu_precision) if device.type == "cpu" else nullcontext()


def trained_model(state_model: nn.Module) -> Trainable:
    """The model inside Composer's `state.model`, which DDP may wrap."""
    inner = state_model.module if isinstance(state_model, nn.parallel.DistributedDataParallel) else state_model
    if not isinstance(inner, ComposerModel):
        raise TypeError(f"{type(inner).__name__} is no ComposerModel; train one of micro_diffusion.training")
    return cast(Trainable, inner)
