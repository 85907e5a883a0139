"""Gradient clipping by the norm of all gradients of a network together (Pascanu et al. 2013).

Own code rather than Composer's algorithm: that one, in 0.32, leaves the gradients as they are when FSDP2 shards them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from composer import Algorithm, Event, Logger, State
from torch.distributed.tensor import DTensor

from micro_diffusion.bounds import PositiveFloat
from micro_diffusion.training.trainable import trained_model


class GradientClipping(Algorithm):
    """Scales the gradients down where their norm over all parameters, on all ranks, exceeds a threshold.

    Where a model trains several networks, such as autoencoder and discriminator, each has a norm of its own, so that
    none slows another down.

    Args:
        clipping_threshold: the largest norm, above 0.
    """

    def __init__(self, *, clipping_threshold: PositiveFloat) -> None:
        self.clipping_threshold = clipping_threshold

    def match(self, event: Event, state: State) -> bool:
        """Runs when a batch's gradients are complete."""
        return event == Event.AFTER_TRAIN_BATCH

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        """Clip."""
        model = cast(torch.nn.Module, trained_model(state.model))
        for network in model.children():
            clip_gradients(network.parameters(), self.clipping_threshold)
        clip_gradients(model.parameters(recurse=False), self.clipping_threshold)


def clip_gradients(parameters: Iterable[torch.nn.Parameter], threshold: float) -> None:
    """Scale the gradients down to this norm where theirs is larger."""
    parameters = list(parameters)
    norm = torch.nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None])
    if norm.device.type == "cpu" and not isinstance(norm, DTensor) and norm <= threshold:
        return  # a GPU would have to be waited for; it multiplies by 1 instead
    torch.nn.utils.clip_grads_with_norm_(parameters, threshold, norm)
