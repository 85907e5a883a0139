"""Every logged number as one JSON object a line: `metrics.jsonl` in the run folder."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from composer import Logger, State
from composer.loggers import LoggerDestination
from composer.utils import dist
from torch import Tensor

from micro_diffusion.whole_file import whole_file


class MetricsFile(LoggerDestination):
    """Appends `{"step": …, name: number, …}` for each call that logs numbers; written by rank 0.

    Args:
        path: the file; a resumed run drops what was logged after its checkpoint, and appends.
    """

    def __init__(self, *, path: str) -> None:
        self.path = Path(path)

    def init(self, state: State, logger: Logger) -> None:
        """Make the folder."""
        if dist.get_global_rank() == 0:
            self.path.parent.mkdir(parents=True, exist_ok=True)

    def fit_start(self, state: State, logger: Logger) -> None:
        """Drop the lines of steps that will be taken again."""
        if dist.get_global_rank() or not self.path.is_file():
            return
        lines = [line for line in self.path.read_text().splitlines() if _step(line) <= state.timestamp.batch.value]
        with whole_file(self.path) as unfinished:
            unfinished.write_text("".join(f"{line}\n" for line in lines))

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Append the finite numbers among the metrics."""
        if dist.get_global_rank():
            return
        numbers = {name: float(value) for name, value in metrics.items() if isinstance(value, int | float | Tensor)}
        numbers = {name: value for name, value in numbers.items() if math.isfinite(value)}
        if numbers:
            with self.path.open("a") as file:
                file.write(json.dumps({"step": step, **numbers}) + "\n")


def _step(line: str) -> float:
    """The step of a line; infinite when it was cut short."""
    try:
        return json.loads(line)["step"]
    except ValueError:
        return math.inf
