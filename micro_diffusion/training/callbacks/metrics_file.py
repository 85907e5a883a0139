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

from micro_diffusion.files.whole_file import whole_file


class MetricsFile(LoggerDestination):
    """Appends `{"step": …, name: number, …}` for each call that logs numbers; written by rank 0.

    JSON has no form for a number that is not finite; it is the text "nan", "inf" or "-inf", which `float` reads.

    Args:
        path: the file; a resumed run drops what was logged after its checkpoint, and appends.
    """

    def __init__(self, *, path: str) -> None:
        self.path = Path(path)
        self._step: int | None = None
        self._lines: float = math.inf
        self._is_cut = False

    def init(self, state: State, logger: Logger) -> None:
        """Make the folder."""
        if dist.get_global_rank() == 0:
            self.path.parent.mkdir(parents=True, exist_ok=True)

    def state_dict(self) -> dict[str, Any]:
        """The last step and how many lines it has so far: others of that step come after the checkpoint, again."""
        return {"step": self._step, "lines": self._lines}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes those of a checkpoint."""
        self._step, self._lines = state["step"], state["lines"]

    def fit_start(self, state: State, logger: Logger) -> None:
        """Drop the lines that will be written again."""
        self._cut(state.timestamp.batch.value)

    def eval_start(self, state: State, logger: Logger) -> None:
        """The same before the evaluation of a run that has been trained to its end."""
        self._cut(state.timestamp.batch.value)

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Append the numbers among the metrics."""
        if dist.get_global_rank():
            return
        numbers = {name: float(value) for name, value in metrics.items() if isinstance(value, int | float | Tensor)}
        if numbers:
            self._lines = self._lines + 1 if step == self._step else 1
            self._step = step
            written = {name: value if math.isfinite(value) else str(value) for name, value in numbers.items()}
            with self.path.open("a") as file:
                file.write(json.dumps({"step": step, **written}) + "\n")

    def _cut(self, step: int) -> None:
        """Leave what a run had logged when it saved its checkpoint at a step, once."""
        if self._is_cut or dist.get_global_rank():
            return
        self._is_cut = True
        lines = self.path.read_text().splitlines() if self.path.is_file() else []
        before = [line for line in lines if _step(line) < step]
        there = [line for line in lines if _step(line) == step] if before else []  # or another folder has its past
        limit = self._lines if step == self._step else math.inf
        kept = [*before, *(line for number, line in enumerate(there) if number < limit)]
        self._step, self._lines = step, len(kept) - len(before)
        if lines:
            with whole_file(self.path) as unfinished:
                unfinished.write_text("".join(f"{line}\n" for line in kept))


def _step(line: str) -> float:
    """The step of a line; infinite when it was cut short."""
    try:
        return json.loads(line)["step"]
    except ValueError:
        return math.inf
