"""Results of the lab as JSON lines: one for each run, the failed ones too, appended when it ends."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from micro_diffusion.files.json_text import whole_lines

LOSS = "metrics/eval/loss"
BAND = f"{LOSS}_"
SCORE = "images/"


@dataclass(frozen=True)
class Point:
    """A run at one of its evaluations.

    images: seen in training so far. flops: spent so far. wall, processor: seconds in training steps so far.
    loss: of the evaluation. bands: the same, for each band of noise levels.
    """

    images: int
    flops: float
    wall: float
    processor: float
    loss: float
    bands: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """One run.

    experiment, parent, seed, budget: what was to be trained, with so many floating-point operations.
    key: of everything that its configuration sets. config: that, resolved, without the places of data and runs.
    ground: key of what the experiments that it may be compared with start from, on this bench with these overrides.
    commit: of the code; ends in "+" where files were changed since. date: of its end. machine: on which.
    bench: what it was trained on and judged by, an option of configs/bench.
    error: why it failed, or None. steps, batch, image_flops, update_flops, parameters: of the training.
    curve: its evaluations. scores: of its images at the end, by kind of prompt, and the network calls for each.
    training: key of the run whose weights its images are made with, and whose curve it has; None where it trained.
    """

    experiment: str
    parent: str | None
    seed: int
    budget: float
    key: str
    commit: str
    date: str
    machine: str
    error: str | None
    steps: int
    batch: int
    image_flops: float
    update_flops: float
    parameters: int = 0
    curve: Sequence[Point] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    training: str | None = None
    bench: str = "shapes"
    ground: str = ""

    @property
    def last(self) -> Point:
        """The run at its end."""
        return self.curve[-1]


def append(path: Path, result: Result) -> None:
    """One more line, behind whatever a machine that stopped has left of one, and not amid that of another process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        content = path.read_bytes()
        file.truncate(content.rfind(b"\n") + 1)
        file.write(json.dumps(asdict(result)).encode() + b"\n")


def read(path: Path) -> list[Result]:
    """Every whole line, in order; none where there is no file.

    Raises:
        ValueError: for a line that is no result.
    """
    found: list[Result] = []
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        try:
            content = json.loads(line)
            result = Result(**content | {"curve": tuple(Point(**point) for point in content["curve"])})
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines):  # written when the machine stopped
                break
            raise ValueError(f"line {number} of {path} is no result ({error}); remove it") from error
        found.append(result)
    return found


def curve_of(metrics: Path, *, batch: int, step_flops: float) -> tuple[tuple[Point, ...], dict[str, float]]:
    """The evaluations in a run's `metrics.jsonl`, and the scores of its images."""
    at: dict[int, dict[str, float]] = {}
    for values in whole_lines(metrics):
        if (step := values.pop("step", None)) is not None:
            at.setdefault(step, {}).update({name: float(value) for name, value in values.items()})
    points = tuple(
        Point(
            images=step * batch,
            flops=step * step_flops,
            wall=values["clock/wall"],
            processor=values["clock/processor"],
            loss=values[LOSS],
            bands={name.removeprefix(BAND): value for name, value in values.items() if name.startswith(BAND)},
        )
        for step, values in sorted(at.items())
        if LOSS in values
    )
    scores = {
        name.removeprefix(SCORE): value
        for _, values in sorted(at.items())
        for name, value in values.items()
        if name.startswith(SCORE)
    }
    return points, scores
