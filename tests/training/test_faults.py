"""Faults in the middle of a training: each ends it with one sentence, or is survived, and nothing is lost."""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from composer.core import Callback
from composer.utils import dist

from micro_diffusion.training.callbacks import image_logger
from micro_diffusion.training.checkpoints.files import is_whole
from micro_diffusion.training.latent_diffusion import LatentDiffusion
from tests.forked_training import output, run_forked
from tests.small_training import CONFIG, ROOT, losses, make_latents, overrides

SCHEDULE = ["trainer.max_duration=12ba", "trainer.eval_interval=12ba", "trainer.save_interval=4ba"]


class At(Callback):
    """Calls `action` of this module when a rank comes to an event of Composer's after so many steps."""

    def __init__(self, step: int, action: str, rank: int = 0, event: str = "batch_start") -> None:
        self.step, self.action, self.rank, self.event = step, action, rank, event

    def run_event(self, event, state, logger) -> None:
        if (event.value, state.timestamp.batch.value, dist.get_global_rank()) == (self.event, self.step, self.rank):
            globals()[self.action]()


def at(step: int, action: Callable[[], None], rank: int = 0, event: str = "batch_start") -> str:
    node = f"{{_target_: {__name__}.At, step: {step}, action: {action.__name__}, rank: {rank}, event: {event}}}"
    return f"+callbacks.fault={node}"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    make_latents(folder, count=24)
    return folder


def train(workplace: Path, name: str, *arguments: str, **options) -> list[int]:
    return run_forked(workplace, f"exp_name={name}", *SCHEDULE, *arguments, **options)


@pytest.fixture(scope="module")
def whole(workplace) -> dict[int, float]:
    """The losses of a training without faults."""
    assert train(workplace, "whole") == [0], output(workplace)
    return losses(workplace / "runs" / "whole")


def assert_goes_on(workplace: Path, name: str, whole: dict[int, float], *arguments: str) -> None:
    assert train(workplace, name, *arguments) == [0], output(workplace)
    assert losses(workplace / "runs" / name) == whole


def latest(workplace: Path, name: str) -> str:
    return os.readlink(workplace / "runs" / name / "checkpoints" / "latest-rank0.pt")


# ------------------------------------------------------------------------------------------- no number, no memory


def spoil_one_loss() -> None:
    original = LatentDiffusion.loss

    def spoiled(model, outputs, batch):
        LatentDiffusion.loss = original
        return original(model, outputs, batch) * math.nan

    LatentDiffusion.loss = spoiled


def test_a_loss_that_is_no_number_stops_and_names_the_samples(workplace, whole):
    assert train(workplace, "no_number", at(6, spoil_one_loss)) == [1]
    file = workplace / "runs" / "no_number" / "non_finite" / "step_0000006_rank0.json"
    assert "Error: the loss or gradient is not finite at step 6 (batch 0 of epoch 1): loss nan" in output(workplace)
    keys = json.loads(file.read_text())["key"]
    assert str(file) in output(workplace) and len(set(keys)) == 4
    assert_goes_on(workplace, "no_number", whole)


def test_two_ranks_skip_and_stop_together_when_one_has_no_number(workplace):
    """Rank 1 has a batch to skip and one to stop at; rank 0 would wait for it if they did not agree."""
    again = at(4, spoil_one_loss, rank=1).replace("callbacks.fault", "callbacks.again")
    arguments = [at(2, spoil_one_loss, rank=1), again, "callbacks.nan_guard.max_skipped_batches=1"]
    assert train(workplace, "one_has_none", *arguments, ranks=2, seconds=60) == [1, 1], output(workplace)
    for rank in range(2):
        assert "Error: the loss or gradient is not finite at step 4" in output(workplace, rank)
    files = (workplace / "runs" / "one_has_none" / "non_finite").iterdir()
    assert sorted(file.name for file in files) == [f"step_000000{s}_rank{r}.json" for s in (2, 4) for r in (0, 1)]


def test_a_batch_may_be_skipped(workplace, whole):
    assert train(workplace, "skip", at(6, spoil_one_loss), "callbacks.nan_guard.max_skipped_batches=1") == [0]
    assert "skipped the batch at step 6" in output(workplace) and "1 of at most 1" in output(workplace)
    found = losses(workplace / "runs" / "skip")
    assert found.keys() == whole.keys() and [step for step, loss in found.items() if math.isnan(loss)] == [6]
    assert all(found[step] == whole[step] for step in range(6))


def little_memory(samples: int) -> None:
    """A device that holds the activations of so many samples."""
    original = LatentDiffusion.forward

    def forward(model, batch):
        if len(batch["latents"]) > samples:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return original(model, batch)

    LatentDiffusion.forward = forward


def test_a_microbatch_that_does_not_fit_is_halved(workplace, whole):
    statuses = train(workplace, "memory", prepare=lambda rank: little_memory(2) or [])
    assert statuses == [0], output(workplace)
    assert losses(workplace / "runs" / "memory") == pytest.approx(whole, rel=0.02)
    logged = (workplace / "runs" / "memory" / "metrics.jsonl").read_text()
    assert '"trainer/device_train_microbatch_size": 2.0' in logged and "device_eval_microbatch_size" in logged


def test_a_sample_that_does_not_fit_is_an_error(workplace):
    assert train(workplace, "no_memory", prepare=lambda rank: little_memory(0) or []) == [1]
    assert "Error: the GPU's memory does not hold a single sample; use a smaller backbone" in output(workplace)


# ------------------------------------------------------------------------------------------------ data and disk


def kill_a_worker() -> None:
    workers = [child for child in psutil.Process().children() if "resource_tracker" not in " ".join(child.cmdline())]
    workers[0].kill()
    time.sleep(0.2)


def test_a_loader_worker_that_is_killed_ends_the_run(workplace, whole):
    assert train(workplace, "worker", "train_loader.workers=1", at(6, kill_a_worker)) == [1]
    assert "Error: a loader worker (process " in output(workplace)
    assert_goes_on(workplace, "worker", whole, "train_loader.workers=1")


LOST = Path()


def lose_a_shard() -> None:
    next(LOST.rglob("*.mds")).unlink()


def test_a_shard_that_disappears_is_named(workplace, whole, tmp_path, monkeypatch):
    shutil.copytree(workplace / "latents", tmp_path / "latents")
    monkeypatch.setitem(globals(), "LOST", tmp_path / "latents")
    data = [f"{part}_loader.path={tmp_path}/latents" for part in ("train", "eval")]
    assert train(workplace, "shard", *data, "train_loader.workers=1", at(6, lose_a_shard)) == [1]
    error = next(line for line in output(workplace).splitlines() if line.startswith("Error: "))
    assert error.startswith(f"Error: the shard {tmp_path}/latents/shard.") and "make the data folder again" in error
    shutil.copytree(workplace / "latents", tmp_path / "latents", dirs_exist_ok=True)
    assert_goes_on(workplace, "shard", whole, *data)


def fill_the_disk() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))


def test_a_full_disk_leaves_the_checkpoint_before(workplace, whole):
    assert train(workplace, "disk", at(6, fill_the_disk)) == [1]
    assert "Error: there is no room to write the checkpoint" in output(workplace)
    assert latest(workplace, "disk") == "ep0-ba4-rank0.pt"
    assert_goes_on(workplace, "disk", whole)


# ------------------------------------------------------------------------------------------------------- signals


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def press_ctrl_c() -> None:
    os.killpg(0, signal.SIGINT)


def own_group(rank: int) -> list[str]:
    os.setpgrp()
    return []


@pytest.mark.parametrize(("action", "status", "name"), [(terminate, 143, "SIGTERM"), (press_ctrl_c, 130, "SIGINT")])
def test_a_signal_saves_the_step_and_ends(workplace, whole, action, status, name):
    arguments = ["train_loader.workers=1", "trainer.save_interval=100ba"]
    assert train(workplace, name, *arguments, at(6, action), prepare=own_group) == [status], output(workplace)
    assert f"{name}: ends after step 7; the same command goes on from the last checkpoint" in output(workplace)
    assert latest(workplace, name) == "ep1-ba7-rank0.pt"
    assert_goes_on(workplace, name, whole, *arguments)


def draw_during(action: Callable[[], None]) -> None:
    """Let something happen in the middle of the next drawing."""
    original = image_logger.captioned_grid

    def grid(images, captions):
        action()
        return original(images, captions)

    image_logger.captioned_grid = grid


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["evaluation", "drawing"])
def test_a_signal_in_an_evaluation_or_drawing_lets_it_end(workplace, whole, moment):
    """What is made after step 4 is whole, and the step after it is the one that is saved."""
    name, run = f"sigterm_{moment}", workplace / "runs" / f"sigterm_{moment}"
    intervals = ["trainer.eval_interval=4ba", "trainer.save_interval=100ba"]
    fault = [at(4, terminate, event="eval_batch_end")] if moment == "evaluation" else []
    prepare = (lambda rank: []) if fault else (lambda rank: draw_during(terminate) or [])
    assert train(workplace, name, *intervals, *fault, prepare=prepare) == [143], output(workplace)
    assert "SIGTERM: ends after step 5; the same command goes on from the last checkpoint" in output(workplace)
    assert latest(workplace, name) == "ep0-ba5-rank0.pt"
    assert (run / "metrics.jsonl").read_text().count('"metrics/eval/loss"') == 1
    assert [file.name for file in (run / "samples").iterdir()] == ["step_0000004.png"]
    assert_goes_on(workplace, name, whole, *intervals)


def press_ctrl_c_twice() -> None:
    press_ctrl_c()
    time.sleep(0.1)
    press_ctrl_c()
    time.sleep(60)  # a step that would take long


def test_a_second_ctrl_c_ends_at_once(workplace):
    start = time.monotonic()
    statuses = train(workplace, "twice", at(6, press_ctrl_c_twice), prepare=own_group)
    assert statuses[0] != 0 and time.monotonic() - start < 30, output(workplace)
    assert "KeyboardInterrupt" in output(workplace) and "ends after step" not in output(workplace)
    assert latest(workplace, "twice") == "ep0-ba4-rank0.pt"


def test_two_ranks_agree_on_the_step_at_which_they_end(workplace):
    assert train(workplace, "agree", at(5, terminate, rank=1), ranks=2) == [143, 143]
    assert latest(workplace, "agree") == "ep0-ba6-rank0.pt"


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_killed_does_not_leave_the_other_waiting(workplace, victim):
    start = time.monotonic()
    statuses = train(workplace, f"alone_{victim}", at(5, kill, rank=victim), ranks=2, seconds=60)
    assert statuses == ([-9, 1] if victim == 0 else [1, -9])
    assert "Error: another rank of this job has ended" in output(workplace, rank=1 - victim)
    assert time.monotonic() - start < 60


# ------------------------------------------------------------------------------------------------- the launcher


class Launched:
    """`composer -n 2 train.py`, as soon as it has taken a few steps."""

    def __init__(self, workplace: Path, name: str) -> None:
        self.run, self.log = workplace / "runs" / name, workplace / f"{name}.log"
        command = [str(Path(sys.executable).parent / "composer"), "-n", "2", "train.py", *CONFIG, *overrides(workplace)]
        command += [f"exp_name={name}", "trainer.max_duration=100000ba", "trainer.save_interval=100000ba"]
        command += ["trainer.eval_interval=100000ba"]
        with self.log.open("w") as log:
            self.process = psutil.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        self.wait(lambda: self.process.poll() is not None or self.steps() > 5, 300)
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        self.ranks = self.process.children()

    def steps(self) -> int:
        return len(losses(self.run)) if (self.run / "metrics.jsonl").exists() else 0

    def wait(self, condition: Callable[[], bool], seconds: float) -> float:
        """Seconds until the condition holds."""
        start = time.monotonic()
        while not condition():
            if time.monotonic() - start > seconds:
                os.killpg(self.process.pid, signal.SIGKILL)
                pytest.fail(self.log.read_text()[-3000:])
            time.sleep(0.1)
        return time.monotonic() - start

    def ended(self) -> bool:
        return not any(rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE for rank in self.ranks)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_ranks_save_and_end_when_their_launcher_does(workplace, number, status):
    job = Launched(workplace, f"launcher_{number.name}")
    job.process.send_signal(number)
    assert job.process.wait(60) == status
    seconds = job.wait(job.ended, 60)
    print(f"the ranks ended {seconds:.1f} s after the launcher")
    assert "SIGTERM: ends after step" in job.log.read_text()
    assert is_whole(job.run / "checkpoints" / "latest-rank0.pt")


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_the_launcher_ends_a_job_that_has_lost_a_rank(workplace, victim):
    job = Launched(workplace, f"lost_{victim}")
    job.ranks[victim].kill()
    seconds = job.wait(lambda: job.process.poll() is not None, 60)
    print(f"the job ended {seconds:.1f} s after its rank")
    assert job.process.returncode != 0 and job.ended()
    assert f"Rank {victim} crashed with exit code -9" in job.log.read_text()


@pytest.mark.slow
def test_a_signal_to_the_ranks_becomes_the_status_of_the_launcher(workplace):
    job = Launched(workplace, "ranks")
    job.ranks[1].terminate()
    assert job.process.wait(60) == 143
    assert is_whole(job.run / "checkpoints" / "latest-rank0.pt")
