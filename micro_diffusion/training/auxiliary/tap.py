"""Hearing what a block of the backbone returns, without a word about it in the backbone."""

from __future__ import annotations

from torch import Tensor, nn


class Tap:
    """Hears what a module returns while it listens.

    Its hook stays, and is silent otherwise: when activation checkpointing computes blocks again for the backward pass,
    what it heard would stay in memory, and a compiled network may not be given another hook at each step.

    Args:
        module: whose forward pass returns one tensor.
    """

    def __init__(self, module: nn.Module) -> None:
        self.listens = False
        self._heard: Tensor | None = None
        module.register_forward_hook(self._hear)

    def _hear(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        if self.listens:
            self._heard = output

    def take(self) -> Tensor:
        """What was heard last, once.

        Raises ValueError when nothing was.
        """
        heard, self._heard = self._heard, None
        if heard is None:
            raise ValueError("the block whose tokens are compared was not called; choose another model.auxiliary block")
        return heard
