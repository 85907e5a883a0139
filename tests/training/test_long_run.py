"""2,000 steps with evaluations, drawings and checkpoints: memory and open files stay, shared memory is given back."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
from pathlib import Path

import psutil
import pytest
from composer.core import Callback
from omegaconf import OmegaConf

from tests.forked_training import output, run_forked
from tests.small_training import ROOT, launched, make_latents, succeeded

STEPS, WARM_UP, EVERY = 2000, 500, 50
SHARED_MEMORY = Path("/dev/shm")
SCHEDULE = [
    f"trainer.max_duration={STEPS}ba",
    "trainer.eval_interval=100ba",
    "trainer.save_interval=100ba",
    "train_loader.workers=2",
    "callbacks.progress_lines.interval=200ba",
]
SIZES = ("dim", "depth", "mixer_dim", "mixer_depth")


class Probe(Callback):
    """Appends the memory in use (MB), and the numbers of open files and threads, to `path` every so many steps.

    Memory is what trainer and workers have written, pages that they share counted once. At the step `die_at`, `path`
    gets the names of the segments in use, and the process dies.
    """

    def __init__(self, path: str, die_at: int | None = None) -> None:
        self.path, self.die_at = Path(path), die_at

    def batch_end(self, state, logger) -> None:
        step = state.timestamp.batch.value
        if step == self.die_at:
            self.path.write_text(json.dumps(segments(self.path.parent)))
            os.kill(os.getpid(), signal.SIGKILL)
        if step % EVERY == 0:
            me = psutil.Process()
            family = [me, *me.children(recursive=True)]
            line = {
                "step": step,
                "memory": round(sum(map(written, family)), 1),
                "trainer": round(written(me), 1),
                "files": sum(p.num_fds() for p in family),
                "threads": sum(p.num_threads() for p in family),
            }
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")


def written(process: psutil.Process) -> float:
    """A process's share of the pages that are no file's, MB."""
    lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss_Anon:")) / 1024


def segments(workplace: Path) -> list[str]:
    """All segments of the programs that read the data folder, which `*_locals` names; others have their own."""
    found = []
    for path in SHARED_MEMORY.glob("*_locals"):
        with contextlib.suppress(FileNotFoundError):  # another program's, gone meanwhile
            if os.fsencode(workplace) in path.read_bytes():
                found += sorted(file.name for file in SHARED_MEMORY.glob(f"{path.name.removesuffix('locals')}*"))
    return found


def still_there(names: list[str]) -> list[str]:
    return [name for name in names if (SHARED_MEMORY / name).exists()]


def probe(path: Path, **arguments: int) -> str:
    rest = "".join(f", {name}: {value}" for name, value in arguments.items())
    return f"+callbacks.probe={{_target_: {__name__}.Probe, path: {path}{rest}}}"


def median(lines: list[dict[str, float]], first: int, last: int) -> float:
    return statistics.median(line["memory"] for line in lines if first <= line["step"] <= last)


@pytest.mark.slow
def test_memory_and_files_stay_over_2000_steps(tmp_path):
    """The network `nano` in a process of its own: a forked one would copy, now and then, what it shares with this."""
    make_latents(tmp_path, count=64, resolution=32)
    nano = OmegaConf.load(ROOT / "configs" / "backbone" / "nano.yaml")
    network = ["resolution=32", *(f"backbone.{name}={nano[name]}" for name in SIZES)]
    path = tmp_path / "probe.jsonl"
    succeeded(launched(tmp_path, "exp_name=long", *network, *SCHEDULE, probe(path), seconds=1200))
    print(path.read_text())
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    warm = [line for line in lines if line["step"] >= WARM_UP]
    early, late = median(lines, WARM_UP, 1000), median(lines, 1500, STEPS)
    print(f"memory {early:.1f} MB from step {WARM_UP} to 1000, {late:.1f} MB from step 1500 to {STEPS}")
    assert len(lines) == STEPS // EVERY
    assert late - early < 8  # 8 KB a step; 2.8 MB were measured
    assert max(line["memory"] for line in warm) - early < 16  # 4.7 MB were measured
    assert max(line["files"] for line in warm) == warm[0]["files"]
    assert max(line["threads"] for line in warm) == warm[0]["threads"]
    assert segments(tmp_path) == []


def test_shared_memory_is_clean_after_a_kill_and_its_resumption(tmp_path):
    make_latents(tmp_path, count=24)
    short = ["trainer.max_duration=8ba", "trainer.save_interval=2ba", "train_loader.workers=2"]
    path = tmp_path / "killed.jsonl"
    assert run_forked(tmp_path, "exp_name=killed", *short, probe(path, die_at=5)) == [-signal.SIGKILL]
    in_use = json.loads(path.read_text())
    print(f"{len(still_there(in_use))} of {len(in_use)} segments are left by the killed process")
    assert {name.partition("_")[2] for name in in_use} >= {"locals", "barrier", "shard_states", "next_epoch"}
    assert run_forked(tmp_path, "exp_name=killed", *short) == [0], output(tmp_path)
    assert segments(tmp_path) == [] and still_there(in_use) == []
