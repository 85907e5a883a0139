"""One job of several ranks: the same bytes as by one, and no waiting for a rank that is dead."""

import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from micro_diffusion.autoencoder.kl import KLAutoencoder
from micro_diffusion.data.prepare.convert import convert
from micro_diffusion.data.prepare.engine import Processes
from micro_diffusion.data.prepare.parts import whole_parts
from micro_diffusion.data.prepare.precompute import precompute
from micro_diffusion.data.prepare.preparation import Preparation
from micro_diffusion.data.prepare.ranks import joined, rank
from micro_diffusion.data.prepare.storage import LocalStorage
from micro_diffusion.data.sources.shapes import Shapes
from micro_diffusion.text.tiny import TinyTextEncoder
from tests.forked_process import free_port

PARTS = 7


class Slow(KLAutoencoder):
    """Takes its time, so that there is some to be killed in; after so many batches the disk is full."""

    seconds, room = 0.0, -1

    def encode(self, images, **options):
        time.sleep(self.seconds)
        self.room -= 1
        if self.room == 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        return super().encode(images, **options)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("ranks") / "images"
    source = Shapes(seed=0, count=8 * PARTS - 3, resolution=16)
    convert(source=source, out=out, preparation=Preparation(), engine=Processes(count=1))
    return out


def run(images: Path, out: Path, *, seconds: float = 0.0, room: int = -1, seed: int = 0) -> None:
    torch.manual_seed(0)
    autoencoder = Slow(channels=2, downsampling=2, width=4).requires_grad_(False)
    autoencoder.seconds, autoencoder.room = seconds, room
    precompute(
        images=images,
        out=out,
        resolutions=[8, 16],
        autoencoder=autoencoder,
        text_encoder=TinyTextEncoder(dim=6, max_length=24),
        batch_size=4,
        part_size=8,
        seed=seed,
    )


def as_rank(number: int, ranks: int, port: int, work: Callable[[], None], said: Path) -> None:
    """Do some work in the environment that a launcher makes, and say how it ended."""
    os.environ.update(RANK=str(number), WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    try:
        with joined():
            work()
        (said / str(number)).write_text("well")
    except Exception as error:
        (said / str(number)).write_text(f"{type(error).__name__}: {error}")


def launch(ranks: int, work: Callable[[], None], said: Path) -> Sequence[BaseProcess]:
    said.mkdir(exist_ok=True)
    port = free_port()
    context = multiprocessing.get_context("forkserver")  # an earlier test's group of ranks is not theirs
    context.set_forkserver_preload([__name__])
    jobs = [context.Process(target=as_rank, args=(number, ranks, port, work, said)) for number in range(ranks)]
    for job in jobs:
        job.start()
    return jobs


def endings(jobs: Sequence[BaseProcess], said: Path) -> dict[str, str]:
    for job in jobs:
        job.join(30)
        job.kill()  # for the test to end where a rank waits for ever
    return {path.name: path.read_text() for path in sorted(said.iterdir())}


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*.*"))}


def test_two_ranks_make_the_same_bytes_as_one(images, tmp_path):
    run(images, tmp_path / "one")
    jobs = launch(2, partial(run, images, tmp_path / "two"), tmp_path / "said")
    assert endings(jobs, tmp_path / "said") == {"0": "well", "1": "well"}
    assert content(tmp_path / "one") == content(tmp_path / "two")


@pytest.mark.parametrize(("ranks", "victim"), [(2, 0), (2, 1), (1, 0)])
def test_a_dead_rank_ends_the_others_and_the_job_goes_on(images, tmp_path, ranks, victim):
    run(images, tmp_path / "undisturbed")
    out, said = tmp_path / "out", tmp_path / "said"
    jobs = launch(ranks, partial(run, images, out, seconds=0.03), said)
    unfinished = LocalStorage(tmp_path / "out.unfinished")
    deadline = time.monotonic() + 30
    while len(whole_parts(unfinished)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(jobs[victim].pid, signal.SIGKILL)
    others = endings(jobs, said).values()
    assert len(others) == ranks - 1
    assert all("ConnectionError: another rank has ended before its work was done" in ending for ending in others)
    assert not out.exists()
    kept = {path.name: path.stat().st_mtime_ns for path in (unfinished.root / "parts").iterdir()}
    assert 2 <= len(kept) < PARTS
    ended = endings(launch(ranks, partial(run, images, out), said), said)
    assert ended == {str(number): "well" for number in range(ranks)}
    assert content(out) == content(tmp_path / "undisturbed")


def test_a_full_disk_is_named_and_what_is_finished_stays(images, tmp_path):
    run(images, tmp_path / "undisturbed")
    out, said, batches = tmp_path / "out", tmp_path / "said", 10  # four make a part
    ended = endings(launch(1, partial(run, images, out, room=batches), said), said)
    assert f"OSError: there is no room left for {out}.unfinished" in ended["0"]
    assert whole_parts(LocalStorage(tmp_path / "out.unfinished")) == {0, 1}
    assert not list((tmp_path / "out.unfinished").glob("writing-*"))
    run(images, out)
    assert content(out) == content(tmp_path / "undisturbed")


def test_what_the_first_rank_refuses_all_refuse(images, tmp_path):
    run(images, tmp_path / "out")
    said = tmp_path / "said"
    refused = endings(launch(2, partial(run, images, tmp_path / "out", seed=1), said), said)
    assert len(refused) == 2
    assert all("FileExistsError" in text and "(seed 0, not 1)" in text for text in refused.values())


def test_alone_there_is_one_rank(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with joined():
        assert rank() == 0
