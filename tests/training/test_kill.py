"""A training that is killed again and again ends with the same losses and weights as one that was left alone.

The processes are forked from this one, which has imported everything, so that a restart costs a second. Each is killed
with SIGKILL, by itself at a chosen moment or by this one at a random time. The ranks of a job are killed together.
"""

from __future__ import annotations

import io
import json
import math
import os
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest
import torch
from composer.core import Callback
from composer.utils import dist
from safetensors.torch import load_file

from micro_diffusion.training.callbacks import image_logger
from micro_diffusion.training.checkpoints.run_folder import RunFolder
from tests.forked_training import output, run_forked
from tests.small_training import losses, make_latents

STEPS = 24
SCHEDULE = [f"trainer.max_duration={STEPS}ba", "trainer.eval_interval=5ba", "trainer.save_interval=4ba"]
PATIENCE = 120
"""Seconds after which a job is taken to hang."""
SEED = int(os.environ.get("KILL_SEED", "18"))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """24 images, in batches of 4: six steps an epoch, four epochs."""
    folder = tmp_path_factory.mktemp("kill")
    make_latents(folder, count=24)
    return folder


def die(*arguments: object, **options: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DieAt(Callback):
    """SIGKILL of a rank at an event, the first time that so many steps are done."""

    def __init__(self, event: str, step: int, rank: int) -> None:
        self.event, self.step, self.rank = event, step, rank

    def run_event(self, event, state, logger) -> None:
        if (event.value, dist.get_global_rank()) == (self.event, self.rank) and state.timestamp.batch >= self.step:
            die()


def arm(moment: str) -> None:
    """Let this process die the next time that it does something which no event announces."""
    replace, save = os.replace, torch.save

    def save_half(content: object, file: IO[bytes], **options: object) -> None:
        if not str(getattr(file, "name", "")).endswith("-rank0.pt"):  # pickling a tensor calls it too
            save(content, file, **options)
            return
        buffer = io.BytesIO()
        save(content, buffer)
        file.write(buffer.getvalue()[: buffer.tell() // 2])
        file.flush()
        die()

    if moment == "drawing":
        image_logger.captioned_grid = die
    elif moment == "checkpoint":
        torch.save = save_half
    elif moment == "name":  # it is written, but has its name not yet
        os.replace = lambda a, b: die() if Path(b).name.startswith("ep") else replace(a, b)
    elif moment == "link":
        os.symlink = die
    elif moment == "final weights":
        os.replace = lambda a, b: die() if str(b).endswith(".safetensors") else replace(a, b)
    elif moment == "completion":
        RunFolder.finish = die


EVENTS = {"step": "after_forward", "evaluation": "eval_batch_end", "end of epoch": "epoch_end"}
WRITINGS = ("drawing", "checkpoint", "name", "link")
ENDINGS = ("final weights", "completion")


@dataclass(frozen=True)
class Kill:
    """A moment; for events, the earliest step and the rank, for any time, the seconds after the start."""

    moment: str
    step: int = 0
    rank: int = 0
    seconds: float = math.inf


def finishes(workplace: Path, *arguments: str, ranks: int = 1, kill: Kill | None = None) -> bool:
    """Run a job of so many ranks to its end, or until it is killed."""

    def prepare(rank: int) -> list[str]:
        if kill is None:
            return []
        if kill.moment not in EVENTS:
            arm(kill.moment)
            return []
        node = f"{{_target_: {__name__}.DieAt, event: {EVENTS[kill.moment]}, step: {kill.step}, rank: {kill.rank}}}"
        return [f"+callbacks.kill={node}"]

    seconds = min(PATIENCE, kill.seconds) if kill else PATIENCE
    start = time.monotonic()
    statuses = run_forked(
        workplace, *SCHEDULE, *arguments, ranks=ranks, prepare=prepare, seconds=seconds, together=True
    )
    late = time.monotonic() - start >= PATIENCE
    assert not late, f"{kill}: waits for {PATIENCE} s\n{output(workplace)[-3000:]}"  # which ends it with SIGKILL too
    if not any(statuses):
        return True
    assert kill is not None and -signal.SIGKILL in statuses, (kill, statuses, output(workplace)[-3000:])
    return False


def numbers(run: Path) -> list[tuple[int, str, str]]:
    """Everything that is measured but times, each as often as it was written; as text, since nan is not itself."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return sorted(
        (line["step"], name, str(value))
        for line in lines
        for name, value in line.items()
        if name != "step" and not name.startswith("time/")
    )


def assert_same(run: Path, whole: Path) -> None:
    assert numbers(run) == numbers(whole) and sorted(losses(run)) == list(range(STEPS))
    for file in ("model.safetensors", "ema.safetensors"):
        resumed, uninterrupted = load_file(run / file), load_file(whole / file)
        assert [key for key in uninterrupted if not torch.equal(resumed[key], uninterrupted[key])] == []
    grids = [{path.name: path.read_bytes() for path in (folder / "samples").iterdir()} for folder in (run, whole)]
    assert grids[0] == grids[1] != {}


@pytest.fixture(scope="module")
def whole(workplace) -> Path:
    """A run of one process from start to end."""
    assert finishes(workplace, "exp_name=whole")
    return workplace / "runs" / "whole"


def test_a_killed_run_goes_on_as_if_nothing_had_happened(workplace, whole):
    """Within an epoch, while it draws, while it writes a checkpoint, between two epochs, and at the very end."""
    kills = [
        Kill("step", 5),
        Kill("drawing"),
        Kill("checkpoint"),
        Kill("end of epoch", 12),
        Kill("evaluation", 15),
        Kill("completion"),
    ]
    for kill in kills:
        assert not finishes(workplace, "exp_name=killed", kill=kill), kill
    assert finishes(workplace, "exp_name=killed")
    assert_same(workplace / "runs" / "killed", whole)


@pytest.mark.parametrize("conditioner", ["known_region", "low_resolution"])
def test_a_run_that_sees_images_goes_on_with_the_same_ones(workplace, conditioner):
    arguments = [f"image_conditioner={conditioner}", "sampler.steps=1"]
    assert finishes(workplace, f"exp_name=whole_{conditioner}", *arguments)
    assert not finishes(workplace, f"exp_name={conditioner}", *arguments, kill=Kill("step", 10))
    assert finishes(workplace, f"exp_name={conditioner}", *arguments)
    assert_same(workplace / "runs" / conditioner, workplace / "runs" / f"whole_{conditioner}")


class Keys(Callback):
    """Writes which samples each step is given."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def after_dataloader(self, state, logger) -> None:
        self.folder.mkdir(exist_ok=True)
        file = self.folder / f"{state.timestamp.batch.value:02d}_of_{dist.get_world_size()}_{dist.get_global_rank()}"
        file.write_text(" ".join(state.batch["key"]))


@pytest.mark.parametrize(("before", "after"), [(2, 1), pytest.param(1, 2, marks=pytest.mark.slow)])
def test_other_ranks_go_on_with_the_samples_that_are_left(workplace, before, after):
    """One or two processes, killed in the second epoch, are followed by another number."""
    seen = workplace / f"keys_{before}_{after}"
    arguments = [f"exp_name=ranks_{before}_{after}", f"+callbacks.keys={{_target_: {__name__}.Keys, folder: {seen}}}"]
    assert not finishes(workplace, *arguments, ranks=before, kill=Kill("step", 10))
    for file in seen.iterdir():
        if int(file.name[:2]) >= 8:  # of steps after the last checkpoint, which are taken again
            file.unlink()
    assert finishes(workplace, *arguments, ranks=after)
    epochs: dict[int, list[str]] = {}
    for file in seen.iterdir():
        epochs.setdefault(int(file.name[:2]) // 6, []).extend(file.read_text().split())
    found = [len(list(seen.glob(f"*_of_{ranks}_*"))) for ranks in (before, after)]
    assert found == [before * 8, after * (STEPS - 8)]
    assert [(len(keys), len(set(keys))) for keys in epochs.values()] == [(24, 24)] * 4


def twenty_kills(chance: random.Random, ranks: int) -> list[Kill]:
    """Along one run: twelve at events, four while something is written, two at any time, two at the end."""
    steps = sorted(chance.randrange(STEPS) for _ in range(12))
    kills = [Kill(chance.choice([*EVENTS]), step, chance.randrange(ranks)) for step in steps]
    for _ in range(4):
        kills.insert(chance.randrange(len(kills)), Kill(chance.choice(WRITINGS)))
    for _ in range(2):  # early, so that the rest takes longer than that
        kills.insert(chance.randrange(6), Kill("any", seconds=chance.uniform(0.3, 2)))
    return [*kills, *(Kill(moment) for moment in ENDINGS)]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("ranks", [1, 2])
def test_twenty_kills_change_nothing(workplace, ranks, workers):
    name, reference = f"killed_{ranks}_{workers}", f"whole_{ranks}"
    finishes(workplace, f"exp_name={reference}", ranks=ranks)
    kills = twenty_kills(random.Random(f"{SEED}/{ranks}/{workers}"), ranks)
    print(f"KILL_SEED={SEED}: {kills}")
    for kill in kills:
        ended = finishes(workplace, f"exp_name={name}", f"train_loader.workers={workers}", ranks=ranks, kill=kill)
        assert not ended, kill
    assert finishes(workplace, f"exp_name={name}", f"train_loader.workers={workers}", ranks=ranks)
    assert_same(workplace / "runs" / name, workplace / "runs" / reference)
