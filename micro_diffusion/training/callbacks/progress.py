"""One line every so many steps: where training is, its loss, its speed and how long it will still take."""

from __future__ import annotations

import logging
import time

from composer import Callback, Event, Logger, State
from composer.utils import create_interval_scheduler, dist

from micro_diffusion.training.times import Interval

log = logging.getLogger(__name__)
_TOTAL = "loss/train/total"


class ProgressLines(Callback):
    """Logs lines on rank 0, in place of a progress bar, so that they read well in a file too.

    Args:
        interval: between two lines, as a Composer time such as `100ba`.
    """

    def __init__(self, *, interval: Interval) -> None:
        self._is_due = create_interval_scheduler(interval, checkpoint_events=False)
        self._losses: list[float] = []
        self._mark, self._seconds, self._samples = 0.0, 0.0, 0

    def fit_start(self, state: State, logger: Logger) -> None:
        """Start counting."""
        if state.timestamp.batch.value:
            log.info("resumes at step %d", state.timestamp.batch.value)
        self._samples = int(state.timestamp.sample.value)

    def before_dataloader(self, state: State, logger: Logger) -> None:
        """Start the clock of a step; evaluations, images and checkpoints are left out."""
        self._mark = time.monotonic()

    def batch_end(self, state: State, logger: Logger) -> None:
        """Note the loss, and log when it is time."""
        self._losses.append(state.total_loss_dict[_TOTAL])
        self._seconds += time.monotonic() - self._mark
        if not self._is_due(state, Event.BATCH_END) or dist.get_global_rank():
            return
        step, samples = state.timestamp.batch.value, int(state.timestamp.sample.value)
        elapsed = state.get_elapsed_duration()
        share = float(elapsed.value) if elapsed is not None else 0.0
        rate = (samples - self._samples) / max(self._seconds, 1e-9)
        left = samples / share * (1 - share) / rate if share and rate else 0.0
        log.info(
            "step %d (%.0f %%)  loss %.4f  learning rate %.2e  %.0f images/s  %s left",
            step, 100 * share, sum(self._losses) / len(self._losses),
            state.optimizers[0].param_groups[-1]["lr"], rate, readable(left),
        )  # fmt: skip
        self._losses, self._seconds, self._samples = [], 0.0, samples

    def eval_end(self, state: State, logger: Logger) -> None:
        """Log the metrics of an evaluation."""
        for label, metrics in state.eval_metrics.items():
            text = ", ".join(f"{name} {float(metric.compute()):.4f}" for name, metric in metrics.items())
            if text and dist.get_global_rank() == 0:
                log.info("step %d  %s: %s", state.timestamp.batch.value, label, text)


def readable(seconds: float) -> str:
    """A duration in its two largest units."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
