"""Which checkpoint a run resumes from, and what a full disk or a half-written file does to it."""

import errno
import logging
import os
import resource
import signal
import zipfile
from types import SimpleNamespace

import pytest
import torch
from composer import Timestamp
from composer.core import Event

from micro_diffusion.training.checkpoints import files as checkpoint_files
from micro_diffusion.training.checkpoints.files import LATEST, check_none_lost, is_whole, whole_checkpoints
from micro_diffusion.training.checkpoints.resumption import own_checkpoints
from micro_diffusion.training.checkpoints.run_folder import RunFolder
from micro_diffusion.training.checkpoints.saver import WholeCheckpointSaver
from tests.damage import WAYS, damaged

LOGGER = SimpleNamespace(destinations=[])


def saver(folder, *, keep=1, urgent=False):
    there = whole_checkpoints(folder)
    return WholeCheckpointSaver(folder=str(folder), there=there, interval="2ba", keep=keep, is_urgent=lambda: urgent)


def at(step):
    """A run after so many steps, as far as the saver looks at it."""
    return SimpleNamespace(
        run_name="run",
        timestamp=Timestamp(epoch=1, batch=step),
        previous_timestamp=Timestamp(epoch=1, batch=step - 1),
        get_elapsed_duration=lambda: 0.1,
        fsdp_config=None,
        fsdp_sharded_state_dict_enabled=False,
    )


@pytest.fixture(autouse=True)
def written_content(monkeypatch):
    """What the checkpoints hold, in place of a whole training; changed by tests."""
    content = {"a": torch.zeros(1000)}

    def write(state, filename):
        with open(filename, "wb") as file:  # as Composer does
            torch.save(content, file)

    monkeypatch.setattr(checkpoint_files, "save_checkpoint", write)
    return content


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def save(some, *steps):
    for step in steps:
        some.batch_checkpoint(at(step), None)


def test_the_newest_stay_and_the_link_names_the_last(tmp_path):
    some = saver(tmp_path, keep=2)
    some.init(at(0), LOGGER)
    save(some, 1, 2, 3, 4, 5, 6)
    assert names(tmp_path) == ["ep1-ba4-rank0.pt", "ep1-ba6-rank0.pt", LATEST]
    assert os.readlink(tmp_path / LATEST) == "ep1-ba6-rank0.pt"


def test_what_an_earlier_process_wrote_counts_among_those_that_stay(tmp_path):
    for steps in ((2,), (4,), (6,)):
        some = saver(tmp_path)
        some.init(at(0), LOGGER)
        save(some, *steps)
    assert names(tmp_path) == ["ep1-ba6-rank0.pt", LATEST]


def test_an_urgent_reason_writes_one_out_of_turn(tmp_path):
    some = saver(tmp_path, urgent=True)
    some.init(at(0), LOGGER)
    some.batch_checkpoint(at(3), None)
    assert os.readlink(tmp_path / LATEST) == "ep1-ba3-rank0.pt"
    assert not saver(tmp_path).save_interval(at(3), Event.BATCH_CHECKPOINT)


@pytest.mark.parametrize("way", WAYS)
def test_a_damaged_checkpoint_is_passed_over(tmp_path, caplog, way):
    first = saver(tmp_path, keep=-1)
    first.init(at(0), LOGGER)
    save(first, 2, 4, 10)
    newest = tmp_path / "ep1-ba10-rank0.pt"
    newest.write_bytes(damaged(newest, way))
    with caplog.at_level(logging.WARNING):
        saver(tmp_path).init(at(0), LOGGER)
    assert os.readlink(tmp_path / LATEST) == "ep1-ba4-rank0.pt"
    assert f"{newest} is damaged and passed over; it is now called {newest.name}.damaged" in caplog.text
    assert is_whole(tmp_path / LATEST) and not newest.exists()


def test_a_run_whose_only_checkpoint_is_damaged_or_gone_does_not_begin_again(tmp_path):
    run = RunFolder(tmp_path, {"trainer": {"save_folder": str(tmp_path / "checkpoints")}})
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    check_none_lost(folder)
    (folder / "ep0-ba2-rank0.pt").write_bytes(b"PK")
    (folder / LATEST).symlink_to("ep0-ba2-rank0.pt")
    for _ in range(2):  # the same command again
        with pytest.raises(ValueError, match=rf"no whole .*, only ep0-ba2-rank0\.pt\.damaged and {LATEST}; put a copy"):
            own_checkpoints(run, autoresume=True)
    (folder / "ep0-ba2-rank0.pt.damaged").unlink()
    with pytest.raises(ValueError, match=rf"checkpoints holds no whole checkpoint any more, only {LATEST}; put a copy"):
        own_checkpoints(run, autoresume=True)
    (folder / LATEST).unlink()
    assert own_checkpoints(run, autoresume=True) == (folder, [], None)


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ESTALE])
def test_a_checkpoint_that_cannot_be_read_keeps_its_name(tmp_path, monkeypatch, number):
    some = saver(tmp_path)
    some.init(at(0), LOGGER)
    save(some, 2)

    def unreadable(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(zipfile, "ZipFile", unreadable)
    with pytest.raises(OSError, match=os.strerror(number)):
        saver(tmp_path).init(at(0), LOGGER)
    assert names(tmp_path) == ["ep1-ba2-rank0.pt", LATEST]


def test_steps_are_ordered_as_numbers(tmp_path):
    some = saver(tmp_path, keep=-1)
    some.init(at(0), LOGGER)
    save(some, 8, 10)
    assert [path.name for path in whole_checkpoints(tmp_path)] == ["ep1-ba8-rank0.pt", "ep1-ba10-rank0.pt"]


@pytest.mark.parametrize("moment", ["fsync", "replace", "symlink"])
def test_a_kill_at_any_moment_of_the_writing_leaves_a_whole_one(tmp_path, monkeypatch, moment):
    some = saver(tmp_path)
    some.init(at(0), LOGGER)
    save(some, 2)
    child = os.fork()
    if not child:
        monkeypatch.setattr(os, moment, lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL))
        save(some, 4)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert is_whole(tmp_path / LATEST)
    saver(tmp_path).init(at(0), LOGGER)
    latest = os.readlink(tmp_path / LATEST)
    assert latest == ("ep1-ba4-rank0.pt" if moment == "symlink" else "ep1-ba2-rank0.pt")
    assert not [name for name in names(tmp_path) if "unfinished" in name]


def test_a_full_disk_is_one_sentence_and_the_checkpoint_before_stays(tmp_path, written_content):
    some = saver(tmp_path)
    some.init(at(0), LOGGER)
    save(some, 2)
    written_content["a"] = torch.zeros(1_000_000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(
            OSError, match=r"no room to write the checkpoint .*ep1-ba4-rank0.pt; .*ba2-rank0.pt is whole"
        ):
            save(some, 4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(tmp_path) == ["ep1-ba2-rank0.pt", LATEST] and is_whole(tmp_path / LATEST)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("moment", ["write", "fsync"])
def test_a_disk_or_quota_that_is_full_is_the_same_sentence(tmp_path, monkeypatch, code, moment):
    """A disk whose last blocks go while the bytes are written, or only when they are synced."""

    def full(*arguments, **options):
        raise OSError(code, os.strerror(code))

    some = saver(tmp_path)
    some.init(at(0), LOGGER)
    save(some, 2)
    with monkeypatch.context() as patch:
        if moment == "write":
            patch.setattr(checkpoint_files, "save_checkpoint", half_written(full))
        else:
            patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"no room to write .*ep1-ba4-rank0.pt; .*ba2-rank0.pt is whole"):
            save(some, 4)
    assert names(tmp_path) == ["ep1-ba2-rank0.pt", LATEST] and is_whole(tmp_path / LATEST)


def half_written(error):
    """A writing of a checkpoint, by torch, in which the file fails after some bytes."""

    def write(state, filename):
        with open(filename, "wb") as file:
            file.write(b"some")
            file.write = error
            torch.save({"a": torch.zeros(1000)}, file)

    return write


def test_other_errors_of_the_disk_are_not_called_a_lack_of_room(tmp_path, monkeypatch):
    def broken(state, filename):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(checkpoint_files, "save_checkpoint", broken)
    some = saver(tmp_path)
    some.init(at(0), LOGGER)
    with pytest.raises(OSError, match="Input/output error"):
        save(some, 2)
