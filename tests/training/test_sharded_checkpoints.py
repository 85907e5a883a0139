"""Checkpoints into which every rank writes its share: whatever stops the writing, a run goes on from a whole one."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
from pathlib import Path

import pytest
from composer.core import Callback
from composer.utils import dist
from safetensors.torch import load_file
from torch.distributed.checkpoint import FileSystemReader

from micro_diffusion.training.checkpoints.content import read_content
from micro_diffusion.training.checkpoints.files import LATEST, is_whole, whole_checkpoints
from tests.forked_training import output, run_forked
from tests.small_training import losses, make_latents, train_here

SCHEDULE = ["trainer.max_duration=6ba", "trainer.eval_interval=6ba", "trainer.save_interval=2ba"]
SHARDED = ["parallelism=fsdp", "parallelism.fsdp.checkpoints=sharded"]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    make_latents(folder, count=24)
    return folder


def train(workplace: Path, name: str, *arguments: str, **options) -> list[int]:
    arguments = (f"exp_name={name}", *SCHEDULE, *SHARDED, *arguments)
    return run_forked(workplace, *arguments, **{"ranks": 2, "together": True, **options})


@pytest.fixture(scope="module")
def whole(workplace) -> Path:
    """A run of two ranks that nothing has disturbed, which keeps two checkpoints."""
    assert train(workplace, "whole", "trainer.save_num_checkpoints_to_keep=2") == [0, 0], output(workplace)
    return workplace / "runs" / "whole"


@pytest.fixture
def checkpoints(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole / "checkpoints", tmp_path / "checkpoints", symlinks=True))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_every_rank_writes_a_share(checkpoints):
    assert names(checkpoints) == ["ep0-ba4", "ep0-ba6", LATEST]
    assert names(checkpoints / LATEST) == [".metadata", "__0_0.distcp", "__1_0.distcp", "metadata.sha256"]
    assert is_whole(checkpoints / LATEST) and is_whole(checkpoints / "ep0-ba4")


def test_the_names_and_shapes_of_the_weights_are_known_without_reading_them(whole):
    shapes = {key: tuple(tensor.shape) for key, tensor in load_file(whole / "model.safetensors").items()}
    found = read_content(whole / "checkpoints" / LATEST, trusted=True).model
    assert {key.removeprefix("network."): shape for key, shape in found.items()} == shapes


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (["optimizer.lr=0.5"], r"would replace those of .* embeddings\.lr 0\.002 \(instead of 0\.5\)"),
        (["~algorithms.ema"], r"holds the state of 1 algorithms that would be lost \(EMA\)"),
        (["+trainer.load_ignore_keys=[zzz]"], "were ignored by load_ignore_key zzz"),
    ],
)
def test_a_state_that_would_be_loaded_in_part_is_refused(whole, workplace, changes, problem):
    path = f"trainer.load_path={whole}/checkpoints/{LATEST}"
    load = [path, "trust_checkpoint=true", "trainer.load_weights_only=false"]
    with pytest.raises(ValueError, match=problem):
        train_here(workplace, "exp_name=partial", *SCHEDULE, *SHARDED, *load, *changes)


def test_shares_of_another_run_are_read_only_when_they_are_trusted(whole, workplace):
    with pytest.raises(ValueError, match="is sharded, and reading it runs the code in it; set trust_checkpoint=true"):
        train_here(
            workplace, "exp_name=careless", *SCHEDULE, *SHARDED, f"trainer.load_path={whole}/checkpoints/{LATEST}"
        )


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 100)


DAMAGES = {
    "flipped share": (flip, "__1_0.distcp"),
    "cut share": (cut, "__0_0.distcp"),
    "missing share": (Path.unlink, "__1_0.distcp"),
    "flipped description": (flip, ".metadata"),
    "cut description": (cut, ".metadata"),
    "missing description": (Path.unlink, ".metadata"),
    "missing digest": (Path.unlink, "metadata.sha256"),
}


@pytest.mark.parametrize(("damage", "name"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_folder_is_passed_over(checkpoints, damage, name):
    damage(checkpoints / "ep0-ba6" / name)
    assert [path.name for path in whole_checkpoints(checkpoints)] == ["ep0-ba4"]
    assert names(checkpoints) == ["ep0-ba4", "ep0-ba6.damaged", LATEST]


def test_a_folder_that_is_damaged_a_second_time_replaces_the_first(checkpoints):
    shutil.copytree(checkpoints / "ep0-ba6", checkpoints / "ep0-ba6.damaged")
    (checkpoints / "ep0-ba6" / "__1_0.distcp").unlink()
    assert [path.name for path in whole_checkpoints(checkpoints)] == ["ep0-ba4"]
    assert names(checkpoints) == ["ep0-ba4", "ep0-ba6.damaged", LATEST]
    assert names(checkpoints / "ep0-ba6.damaged") == [".metadata", "__0_0.distcp", "metadata.sha256"]


def test_a_description_that_cannot_be_read_condemns_nothing(checkpoints, monkeypatch):
    def unreadable(reader):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(FileSystemReader, "read_metadata", unreadable)
    with pytest.raises(OSError, match="Input/output error"):
        whole_checkpoints(checkpoints)
    assert names(checkpoints) == ["ep0-ba4", "ep0-ba6", LATEST]


class Arm(Callback):
    """Lets a rank die, from a step on, when it does one of the things of which a checkpoint's writing consists."""

    def __init__(self, moment: str, step: int, rank: int) -> None:
        self.moment, self.step, self.rank = moment, step, rank

    def batch_end(self, state, logger) -> None:
        if (state.timestamp.batch.value, dist.get_global_rank()) == (self.step, self.rank):
            arm(self.moment)


def arm(moment: str) -> None:
    replace, rename, fsync = os.replace, os.rename, os.fsync

    def die_at(name: str, real):
        return lambda path, to, **options: die() if Path(to).name == name else real(path, to, **options)

    if moment == "share":
        os.fsync = lambda file: die() if ".distcp" in os.readlink(f"/proc/self/fd/{file}") else fsync(file)
    elif moment == "description":
        os.rename = die_at(".metadata", rename)
    elif moment == "name":
        os.replace = die_at("ep0-ba4", replace)
    elif moment == "link":
        os.symlink = die
    elif moment == "removal":
        shutil.rmtree = die


def die(*arguments: object, **options: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


MOMENTS = {"share": (1, 2), "description": (0, 2), "name": (0, 2), "link": (0, 4), "removal": (0, 4)}
"""Which rank is killed, and the step of the newest whole checkpoint then."""


@pytest.mark.parametrize(
    "moment", [moment if moment == "name" else pytest.param(moment, marks=pytest.mark.slow) for moment in MOMENTS]
)
def test_a_kill_within_the_writing_leaves_a_whole_one(workplace, whole, moment):
    """Of the checkpoint after step 4, while the one after step 2 is there."""
    rank, newest = MOMENTS[moment]
    node = f"{{_target_: {__name__}.Arm, moment: {moment}, step: 4, rank: {rank}}}"
    assert -signal.SIGKILL in train(workplace, moment, f"+callbacks.arm={node}")
    run = workplace / "runs" / moment
    assert is_whole(run / "checkpoints" / LATEST)
    assert train(workplace, moment) == [0, 0], output(workplace)
    assert f"resumes at step {newest}" in output(workplace)
    assert losses(run) == losses(whole)
    assert names(run / "checkpoints") == ["ep0-ba6", LATEST]


@pytest.mark.slow
def test_a_full_disk_of_any_rank_leaves_the_one_before(workplace):
    def fill(rank: int) -> list[str]:
        if rank == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
        return []

    assert train(workplace, "disk", "trainer.max_duration=2ba", "algorithms.ema.start=1ba") == [0, 0]
    (workplace / "runs" / "disk" / "complete.json").unlink()
    longer = ["algorithms.ema.start=1ba", "accept_changes=[trainer.max_duration]"]
    assert train(workplace, "disk", *longer, prepare=fill, together=False) == [1, 1]
    for rank in (0, 1):
        assert "Error: there is no room to write the checkpoint" in output(workplace, rank)
        assert "ep0-ba2 is whole" in output(workplace, rank)
    assert is_whole(workplace / "runs" / "disk" / "checkpoints" / LATEST)


def test_the_other_kind_of_checkpoint_is_one_sentence(workplace, whole):
    run = shutil.copytree(whole, workplace / "runs" / "kind", symlinks=True)
    (run / "complete.json").unlink()
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("whole", "kind"))  # as if it had always had this name
    statuses = train(workplace, "kind", "parallelism.fsdp.checkpoints=whole", together=False)
    assert statuses == [1, 1]
    for rank in (0, 1):
        assert "is sharded, but this run writes and reads whole ones; go on with parallelism=fsdp" in output(
            workplace, rank
        )
