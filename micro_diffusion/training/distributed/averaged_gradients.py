"""Gradients of all ranks together, before anything looks at them.

FSDP2 asks the backend for averages over ranks. In torch 2.7, gloo, which joins CPUs, silently gives sums, and clipping
then sees a norm that is too large by the number of ranks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed
from composer import Algorithm, Event, Logger, State
from torch.distributed import ProcessGroup, ReduceOp
from torch.distributed.tensor import DTensor

from micro_diffusion.training.distributed.sharding import local


class GradientsOfAllRanks(Algorithm):
    """Makes the gradients of a step those of all ranks, when it is told that the batch is done."""


def complete_gradients_first(algorithms: Sequence[Algorithm], event: Event) -> Sequence[Algorithm]:
    """A pass of Composer's engine: what completes gradients runs before what clips them, wherever it is listed."""
    if event != Event.AFTER_TRAIN_BATCH:
        return algorithms
    return sorted(algorithms, key=lambda algorithm: not isinstance(algorithm, GradientsOfAllRanks))


class AveragedGradients(GradientsOfAllRanks):
    """Divides the gradients by what the backend's average of ones amounts to, which is asked once."""

    def __init__(self) -> None:
        self._average_of_ones = 0.0

    def match(self, event: Event, state: State) -> bool:
        """Runs when a batch has been through the network."""
        return event == Event.AFTER_TRAIN_BATCH and state.fsdp_config is not None

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        """Correct the gradients where that is needed."""
        gradients = [p.grad for p in state.model.parameters() if isinstance(p.grad, DTensor)]
        if not self._average_of_ones:
            mesh = gradients[0].device_mesh
            self._average_of_ones = average_of_ones(mesh.get_group(mesh.ndim - 1), gradients[0].device)
        if self._average_of_ones != 1:
            torch._foreach_div_([local(gradient) for gradient in gradients], self._average_of_ones)


def average_of_ones(group: ProcessGroup, device: torch.device) -> float:
    """What reducing and scattering ones by their average gives in this group: 1, where the backend is right."""
    result = torch.zeros(1, device=device)
    ones = torch.ones(group.size(), device=device)
    torch.distributed.reduce_scatter_tensor(result, ones, op=ReduceOp.AVG, group=group)
    return result.item()
