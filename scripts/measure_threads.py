"""Seconds of a training step on the CPU, alone and beside a busy program, for ways in which threads may wait.

python scripts/measure_threads.py --json threads.json

Alone means that nothing else runs on this machine meanwhile. Every way has a process of its own, since libgomp reads
the environment once; ratios are to torch's own way, alone.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WAYS: dict[str, dict[str, str]] = {
    "torch's own": {},
    "yields when busy": {"YIELD": "1"},
    "GOMP_SPINCOUNT=30000": {"GOMP_SPINCOUNT": "30000"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread fewer": {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) - 1))},
}
Row = dict[str, float]
READ = ("YIELD", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def steps(options: argparse.Namespace) -> list[float]:
    """Seconds of each step of a stage in this process."""
    sys.path.insert(0, str(ROOT))
    import torch

    from micro_diffusion.machine.tensor_memory import keep_freed_memory
    from micro_diffusion.machine.threads import yield_when_busy
    from micro_diffusion.performance.plan import stage_configs
    from micro_diffusion.performance.training_step import TrainingStep

    keep_freed_memory("cpu")
    if os.environ.get("YIELD"):
        yield_when_busy("cpu")
    config = stage_configs(ROOT / "configs", [options.stage], ["exp_name=threads"])[options.stage]
    step = TrainingStep(
        config=config, batch_size=options.batch_size, device=torch.device("cpu"), precision="fp32", compile=False
    )
    seconds = []
    end = time.monotonic() + options.seconds
    while len(seconds) < 5 or time.monotonic() < end:
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return seconds[2:]


@contextmanager
def busy_program(wanted: bool) -> Iterator[None]:
    """Another program that never waits."""
    program = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if wanted else None
    try:
        yield
    finally:
        if program is not None:
            program.kill()
            program.wait()


def measured(way: str, busy: bool, options: argparse.Namespace) -> Row | None:
    """Median and longest step of a process of this way; None when it does not end in time."""
    environment = {name: value for name, value in os.environ.items() if name not in READ} | WAYS[way]
    command = [sys.executable, "-W", "ignore", __file__, "--here", "--stage", options.stage]
    command += ["--batch-size", str(options.batch_size), "--seconds", str(options.seconds)]
    with busy_program(busy):
        try:
            result = subprocess.run(
                command, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=20 * options.seconds
            )
        except subprocess.TimeoutExpired:
            return None
    seconds = json.loads(result.stdout.splitlines()[-1])
    return {"median": statistics.median(seconds), "longest": max(seconds), "steps": len(seconds)}


def main() -> None:
    """Measure every way, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", default="quickstart_64_pretrain")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=30, help="of each measurement, after two steps")
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(json.dumps(steps(options)))
        return
    rows = {way: {kind: measured(way, kind == "busy", options) for kind in ("idle", "busy")} for way in WAYS}
    print(table(rows))
    if options.json:
        found = {"processors": len(os.sched_getaffinity(0)), "asked": vars(options), "ways": rows}
        options.json.write_text(json.dumps(found, default=str, indent=2) + "\n")


def table(rows: dict[str, dict[str, Row | None]]) -> str:
    """Medians, and the longest step beside a busy program, as ratios to torch's own way alone."""
    alone = rows["torch's own"]["idle"]
    base = alone["median"] if alone else math.nan
    lines = [f"{f'times {base:.3f} s':26}{'idle':>10}{'busy':>10}{'longest busy':>14}"]
    for way, row in rows.items():
        cells = [(row["idle"], "median", 10), (row["busy"], "median", 10), (row["busy"], "longest", 14)]
        texts = [f"{'-' if cell is None else f'{cell[key] / base:.2f}':>{width}}" for cell, key, width in cells]
        lines.append(f"{way:26}{''.join(texts)}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
