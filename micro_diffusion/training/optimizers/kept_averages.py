"""Keeps averages of the weights of a few lengths while a run trains, from which those of any length follow later."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from composer import Algorithm, Event, Logger, State
from composer.utils import create_interval_scheduler, dist

from micro_diffusion.bounds import OpenFraction
from micro_diffusion.files.weight_file import write_tensors
from micro_diffusion.training.optimizers.average_lengths import FOLDER
from micro_diffusion.training.optimizers.ema import EMA
from micro_diffusion.training.times import Interval
from micro_diffusion.training.trainable import trained_model

DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


class KeptAverages(Algorithm):
    """Averages with growing horizons (`growing_smoothing`), and snapshots of them as the run goes on.

    Karras et al. 2024, arXiv 2312.02696, section 3.2. They are beside the average that evaluation shows, `EMA`, and
    `micro-diffusion ema` combines them. Each takes four bytes a parameter, and as many in checkpoints.

    Args:
        widths: lengths, as standard deviations of the moments averaged over as a share of the training; two suffice.
        interval: between snapshots, as a Composer time such as `0.05dur`; the end has one in any case.
        folder: the run folder.
        dtype: of the snapshots.

    Raises:
        ValueError: for a length that no such average has, or none at all.
    """

    def __init__(
        self, *, widths: Sequence[OpenFraction], interval: Interval, folder: str, dtype: Literal["fp32", "fp16"]
    ) -> None:
        if not widths or len(set(widths)) < len(widths):
            raise ValueError(f"algorithms.ema_lengths.widths is {list(widths)}; set it to lengths such as [0.05,0.1]")
        self.averages = {width: EMA(width=width, start="0ba") for width in widths}
        self.folder, self.dtype = Path(folder) / FOLDER, DTYPES[dtype]
        self._is_due = create_interval_scheduler(interval, include_end_of_training=True)
        self._kept_at = 0

    def match(self, event: Event, state: State) -> bool:
        """Runs after steps."""
        return event in (Event.BATCH_END, Event.BATCH_CHECKPOINT, Event.EPOCH_CHECKPOINT)

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        """Update the averages; keep them where it is time."""
        step = state.timestamp.batch.value
        if event == Event.BATCH_END:
            for average in self.averages.values():
                average.update(trained_model(state.model).network, step=step)
        elif self._is_due(state, event) and step != self._kept_at:
            self._kept_at = step
            self.keep(step)

    def keep(self, step: int) -> None:
        """Write a snapshot of each; every rank takes part."""
        for width, average in self.averages.items():
            weights = average.whole()
            if dist.get_global_rank() == 0:
                self.folder.mkdir(parents=True, exist_ok=True)
                path = self.folder / f"step_{step:08d}_width_{width:g}.safetensors"
                rounded = {name: weight.to(self.dtype) for name, weight in weights.items()}
                write_tensors(path, rounded, step=str(step), width=repr(width))

    def state_dict(self) -> dict[str, Any]:
        """All averages go into checkpoints."""
        return {**super().state_dict(), "averages": {repr(width): ema.whole() for width, ema in self.averages.items()}}

    def load_state_dict(self, state: dict[str, Any], strict: bool = False) -> None:
        """Takes the averages of a checkpoint.

        Raises:
            ValueError: when it holds others.
        """
        wanted = {repr(width): ema for width, ema in self.averages.items()}
        if wanted.keys() != state["averages"].keys():
            raise ValueError(
                f"the checkpoint holds averages of the lengths {', '.join(state['averages'])}; set "
                f"algorithms.ema_lengths.widths to these"
            )
        for width, ema in wanted.items():
            ema.load_state_dict({"average": state["averages"][width]})
