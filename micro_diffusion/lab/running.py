"""Runs experiments, each in a process of its own, one after another or side by side; what was run is not run again."""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from threading import Lock
from typing import Any

from omegaconf import DictConfig, OmegaConf

from micro_diffusion.lab.planning import Plan
from micro_diffusion.lab.results import Result, append, curve_of, read
from micro_diffusion.machine.device import usable_device
from micro_diffusion.machine.precision import computes_in_bf16
from micro_diffusion.performance.report import device_name
from micro_diffusion.training.callbacks.interruption import SIGNALS
from micro_diffusion.training.config_checks.errors import one_sentence_errors

STACK = "micro_diffusion.training.build"
"""Imported once, by the server from which the processes of all runs are forked; it takes ten seconds."""

CODE = ("micro_diffusion", "configs", "scripts", "train.py")
"""What a result depends on."""

INTERRUPTED = (*(-number for number in SIGNALS), *(128 + number for number in SIGNALS), 255)
"""Exit statuses of a training that was told to end: by the signal, or after it saved the step; and what
multiprocessing says of a process whose server was told so as well."""


def run_all(
    plans: Sequence[Plan],
    out: Path,
    *,
    jobs: int = 1,
    again: bool = False,
    train: Callable[[Plan], int | None] | None = None,
) -> None:
    """Run what is not in the file of results yet, and append to it; first what others need.

    A run that was told to end is no result: the same command goes on with it.

    Args:
        plans: the runs, in order.
        out: file of results.
        jobs: runs side by side.
        again: whether failed runs are tried again.
        train: a run to the exit status of its training, or scoring; None does it in a process of its own.
    """
    failed = {result.key: result.error is not None for result in read(out)}
    wanted = [plan for plan in plans if plan.key not in failed or (again and failed[plan.key])]
    if there := len(plans) - len(wanted):
        print(f"{there} of {len(plans)} runs are in {out} already", flush=True)
    wanted += missing(wanted, {} if again else failed)
    train, writing = train or in_own_process(), Lock()
    of_code = commit(Path(__file__).parents[2])

    def one(plan: Plan) -> None:
        print(f"{datetime.now():%H:%M:%S} {plan.folder}: {plan.config.trainer.max_duration}", flush=True)
        start = time.monotonic()
        status = train(plan)
        if status in INTERRUPTED:
            print(f"{datetime.now():%H:%M:%S} {plan.folder}: told to end; the same command goes on with it", flush=True)
            return
        result = result_of(plan, status, of_code)
        with writing:
            if any(other.key == result.key and other.error is None for other in read(out)):
                print(f"{datetime.now():%H:%M:%S} {plan.folder}: another command has recorded it", flush=True)
                return
            append(out, result)
        said = result.error or f"loss {result.last.loss:.4f}"
        print(f"{datetime.now():%H:%M:%S} {plan.folder}: {said}, {time.monotonic() - start:.0f} s", flush=True)

    for together in waves(wanted):
        with ThreadPoolExecutor(jobs) as pool:
            try:
                list(pool.map(one, together))
            except (KeyboardInterrupt, SystemExit):  # of Ctrl-C and SIGTERM; the pool waits for its threads
                for process in multiprocessing.active_children():
                    process.terminate()
                raise


def missing(wanted: Sequence[Plan], failed: Mapping[str, bool]) -> list[Plan]:
    """What runs need and is not there: neither wanted itself, nor in its folder; a run that failed stays so."""
    found: dict[str, Plan] = {}
    for plan in wanted:
        for need in plan.needs:
            if not need.is_complete and not failed.get(need.key, False):
                found |= {each.key: each for each in (*missing([need], failed), need)}
    return [plan for key, plan in found.items() if key not in {other.key for other in wanted}]


def waves(plans: Sequence[Plan]) -> list[list[Plan]]:
    """Plans that may run side by side, those first that others may need."""

    def depth(plan: Plan) -> int:
        return 1 + max(map(depth, plan.needs)) if plan.needs else 0

    return [[plan for plan in plans if depth(plan) == level] for level in sorted(set(map(depth, plans)))]


def in_own_process() -> Callable[[Plan], int | None]:
    """Trains, or scores, in processes that are forked from a server, in which everything is imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([STACK])

    def train(plan: Plan) -> int | None:
        plan.folder.mkdir(parents=True, exist_ok=True)
        sampled = None if plan.training is None else str(plan.training.folder)
        process = context.Process(target=_run, args=(OmegaConf.to_yaml(plan.config), str(plan.folder), sampled))
        process.start()
        process.join()
        return process.exitcode

    return train


def _run(config: str, folder: str, sampled: str | None) -> None:
    """In the process of a run: train, or score what another has trained, with all output in a file."""
    descriptor = os.open(f"{folder}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout = sys.stderr = os.fdopen(descriptor, "w", buffering=1)
    import logging

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("composer").setLevel(logging.WARNING)
    from micro_diffusion.lab.scoring import score
    from micro_diffusion.training.build import train
    from micro_diffusion.training.config_checks.resolvers import register_resolvers

    register_resolvers()
    try:
        with one_sentence_errors():
            if sampled is None:
                train(DictConfig(OmegaConf.create(config)))
            else:
                score(DictConfig(OmegaConf.create(config)), Path(folder), Path(sampled))
    finally:
        atexit._run_exitfuncs()  # multiprocessing leaves them out, and the shared memory of the data with them


def result_of(plan: Plan, status: int | None, of_code: str) -> Result:
    """What has become of a run of some commit whose process ended with a status."""
    steps, batch = int(plan.config.trainer.max_duration.removesuffix("ba")), plan.config.train_loader.batch_size
    trained = plan.training or plan
    curve, scores = curve_of(trained.folder / "metrics.jsonl", batch=batch, step_flops=plan.cost.step(batch))
    if plan.training is not None:
        _, scores = curve_of(plan.folder / "metrics.jsonl", batch=batch, step_flops=0)
    complete = trained.folder / "complete.json"
    is_whole = complete.is_file() and bool(curve if plan.training is None else scores)
    error = None if status == 0 and is_whole else _why(plan.folder / "log", status)
    ended = time.time() if error or plan.training else complete.stat().st_mtime
    return Result(
        experiment=plan.experiment.name,
        parent=plan.experiment.parent,
        seed=plan.seed,
        budget=plan.budget,
        key=plan.key,
        commit=of_code,
        date=f"{datetime.fromtimestamp(ended, timezone.utc):%Y-%m-%d %H:%M}",
        machine=machine(),
        error=error,
        steps=steps,
        batch=batch,
        image_flops=plan.cost.image,
        update_flops=plan.cost.update,
        parameters=0 if error else json.loads(complete.read_text())["parameters"],
        curve=curve,
        scores=scores,
        config=plan.content(),
        training=None if plan.training is None else plan.training.key,
        bench=plan.bench,
        ground=plan.ground,
    )


def _why(log: Path, status: int | None) -> str:
    """The last line that a run wrote, and how its process ended."""
    lines = log.read_text(errors="replace").strip().splitlines() if log.is_file() else []
    return f"ended with status {status}: {lines[-1] if lines else 'it wrote nothing'}"


def commit(root: Path) -> str:
    """The commit of a checkout, with a "+" where its code was changed since; "unknown" outside of one."""

    def git(*words: str) -> Any:
        return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True)

    found = git("rev-parse", "--short=10", "HEAD")
    if found.returncode:
        return "unknown"
    changed = git("status", "--porcelain", "--untracked-files=no", "--", *CODE).stdout.strip()
    return found.stdout.strip() + ("+" if changed else "")


def machine() -> str:
    """The processor, what "auto" takes for its precision, and how many threads a run has."""
    device = usable_device(None)
    precision = "bf16" if computes_in_bf16(device.type) else "fp32"
    threads = os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0)))
    return f"{device_name(device)}, {precision}, {threads} thread{'' if threads in (1, '1') else 's'}"
