"""A run that is told to end, by SIGTERM or Ctrl-C, finishes its step and saves it first."""

from __future__ import annotations

import logging
import os
import signal
import sys
from types import FrameType
from typing import Any

import torch
from composer import Callback, Logger, State
from composer.utils import dist

from micro_diffusion.machine.processes import exit_with_parent

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption(Callback):
    """Ends training with the exit status 128 + signal after the step, or the evaluation, in which a signal came.

    It stands after the checkpoint saver, to which `is_agreed` gives the reason to save. The ranks agree on the step,
    as a signal reaches them in different ones. A second Ctrl-C ends at once.

    Args:
        way_on: what can be done after that, for the log.
    """

    def __init__(self, *, way_on: str) -> None:
        self._way_on = way_on
        self._received = 0
        self._agreed = 0
        self._before: dict[int, Any] = {}

    def is_agreed(self) -> bool:
        """Whether any rank has received a signal before the end of this step."""
        return self._agreed > 0

    def fit_start(self, state: State, logger: Logger) -> None:
        """Take over from Composer's handlers, which end at once."""
        self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}

    def batch_end(self, state: State, logger: Logger) -> None:
        """Ask the other ranks, if there are any: a GPU is waited for."""
        if dist.get_world_size() == 1:
            self._agreed = self._received
            return
        received = state.device.tensor_to_device(torch.tensor([self._received]))
        dist.all_reduce(received, reduce_operation="MAX")
        self._agreed = int(received.item())

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        """End, as the checkpoint is written."""
        if not self._agreed:
            return
        if dist.get_global_rank() == 0:
            log.warning(
                "%s: ends after step %d; %s",
                signal.Signals(self._agreed).name,
                state.timestamp.batch.value,
                self._way_on,
            )
        dist.barrier()  # the launcher kills who is left 30 s after the first rank has ended
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # its SIGTERM would take the place of the exit status
        sys.exit(128 + self._agreed)

    def close(self, state: State, logger: Logger) -> None:
        """Give the signals back, unless one has ended the training."""
        for number, handler in self._before.items() if not self._agreed else ():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = self._received or number
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def end_with_launcher() -> None:
    """Have this rank receive SIGTERM when the launcher that started it ends.

    Ranks whose launcher was killed would train on unseen. A process that no launcher started is left alone, since a
    shell may end before it.
    """
    if "LOCAL_RANK" in os.environ:
        exit_with_parent(signal.SIGTERM)
