"""2,000 steps with evaluations, drawings and checkpoints: memory and open files stay, shared memory is given back."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path

import psutil
import pytest
from composer.core import Callback

from tests.forked_training import output, run_forked
from tests.small_training import make_latents

STEPS, WARM_UP = 2000, 600
SHARED_MEMORY = Path("/dev/shm")
SCHEDULE = [
    f"trainer.max_duration={STEPS}ba",
    "trainer.eval_interval=100ba",
    "trainer.save_interval=100ba",
    "train_loader.workers=2",
    "callbacks.progress_lines.interval=200ba",
]


class Probe(Callback):
    """Appends the memory in use (MB), and the numbers of open files and threads, to `path` every 100 steps.

    Memory is what a process has for itself (USS), the workers apart.
    """

    def __init__(self, path: str, die_at: int | None = None) -> None:
        self.path, self.die_at = Path(path), die_at

    def batch_end(self, state, logger) -> None:
        step = state.timestamp.batch.value
        if step == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if step % 100 == 0:
            me = psutil.Process()
            family = [me, *me.children(recursive=True)]
            line = {
                "step": step,
                "memory": round(me.memory_full_info().uss / 2**20, 1),
                "workers_memory": round(sum(p.memory_full_info().uss for p in family[1:]) / 2**20, 1),
                "files": sum(p.num_fds() for p in family),
                "threads": sum(p.num_threads() for p in family),
            }
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("long")
    make_latents(folder, count=64)
    return folder


def segments(workplace: Path) -> list[str]:
    """Segments that name the data folder; other programs of this machine have their own."""
    found = []
    for path in SHARED_MEMORY.glob("*_locals"):
        with contextlib.suppress(FileNotFoundError):  # another program's, gone meanwhile
            found += [path.name] if os.fsencode(workplace) in path.read_bytes() else []
    return found


def probe(path: Path, **arguments: int) -> str:
    rest = "".join(f", {name}: {value}" for name, value in arguments.items())
    return f"+callbacks.probe={{_target_: {__name__}.Probe, path: {path}{rest}}}"


@pytest.mark.slow
def test_memory_and_files_stay_over_2000_steps(workplace):
    path = workplace / "probe.jsonl"
    assert run_forked(workplace, "exp_name=long", *SCHEDULE, probe(path), seconds=900) == [0], output(workplace)
    print(path.read_text())
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    warm = [line for line in lines if line["step"] >= WARM_UP]
    assert len(lines) == STEPS // 100
    assert max(line["memory"] for line in warm) - warm[0]["memory"] < 16
    assert max(line["workers_memory"] for line in warm) - warm[0]["workers_memory"] < 16
    assert max(line["files"] for line in warm) == warm[0]["files"]
    assert max(line["threads"] for line in warm) == warm[0]["threads"]
    assert segments(workplace) == []


def test_shared_memory_is_clean_after_a_kill_and_its_resumption(workplace):
    short = ["trainer.max_duration=8ba", "trainer.save_interval=2ba", "train_loader.workers=2"]
    path = workplace / "killed.jsonl"
    assert run_forked(workplace, "exp_name=killed", *short, probe(path, die_at=5)) == [-signal.SIGKILL]
    print("left by the killed process:", segments(workplace))
    assert run_forked(workplace, "exp_name=killed", *short) == [0], output(workplace)
    assert segments(workplace) == []
