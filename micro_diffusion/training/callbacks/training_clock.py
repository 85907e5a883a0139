"""Seconds that a run spent in training steps alone, by the wall and by this process's processor."""

from __future__ import annotations

import time
from typing import Any

from composer import Callback, Logger, State


class TrainingClock(Callback):
    """Logs `clock/wall` and `clock/processor` before every evaluation and at the end; a resumed run goes on counting.

    From the loading of a batch to the end of its step; evaluations, images and checkpoints are left out. On a machine
    that others use too, the processor's seconds say what a run cost, and the wall's how long it took.
    """

    def __init__(self) -> None:
        self.wall = self.processor = 0.0
        self._wall = self._processor = 0.0

    def before_dataloader(self, state: State, logger: Logger) -> None:
        """Start the clock of a step."""
        self._wall, self._processor = time.perf_counter(), time.process_time()

    def batch_end(self, state: State, logger: Logger) -> None:
        """Add the step's time."""
        self.wall += time.perf_counter() - self._wall
        self.processor += time.process_time() - self._processor

    def eval_start(self, state: State, logger: Logger) -> None:
        """Say how much it is so far."""
        logger.log_metrics({"clock/wall": self.wall, "clock/processor": self.processor})

    def fit_end(self, state: State, logger: Logger) -> None:
        """The same at the end."""
        self.eval_start(state, logger)

    def state_dict(self) -> dict[str, Any]:
        """The seconds so far."""
        return {"wall": self.wall, "processor": self.processor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Those of a checkpoint."""
        self.wall, self.processor = state["wall"], state["processor"]
