"""Numbers and images for TensorBoard, in one event file for each time that a run is started."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from composer import Logger, State
from composer.loggers import LoggerDestination
from composer.utils import dist
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from micro_diffusion.bounds import NonNegativeInt


class TensorBoard(LoggerDestination):
    """Writes on rank 0 only; when a run resumes, what it had logged after the step of its checkpoint is hidden.

    What it had logged at that very step stays, for an evaluation or a drawing there is not made again; the loss of the
    step, which is taken again, is there twice with the same value.

    Composer's own logger begins a new file every hundred steps, and on every rank.

    Args:
        folder: for the event files.
        flush_seconds: how long numbers may wait before they are written.
    """

    def __init__(self, *, folder: str, flush_seconds: NonNegativeInt) -> None:
        self.folder = folder
        self.flush_seconds = flush_seconds
        self._writer: SummaryWriter | None = None

    def fit_start(self, state: State, logger: Logger) -> None:
        """Open the file."""
        if dist.get_global_rank() == 0:
            step = state.timestamp.batch.value
            self._writer = SummaryWriter(self.folder, flush_secs=self.flush_seconds, purge_step=step + 1 if step else 0)

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Write the numbers among the metrics."""
        if self._writer is not None:
            for name, value in metrics.items():
                if isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1):
                    self._writer.add_scalar(name, value, step)

    def log_images(
        self,
        images: Any,
        name: str = "images",
        channels_last: bool = False,
        step: int | None = None,
        masks: dict[str, Any] | None = None,
        mask_class_labels: dict[int, str] | None = None,
        use_table: bool = True,
    ) -> None:
        """Write images, (3, H, W) each, as one strip."""
        if self._writer is not None:
            shown: Sequence[Tensor] = images
            self._writer.add_images(name, torch.stack(list(shown)), step, dataformats="NCHW")

    def close(self, state: State, logger: Logger) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
