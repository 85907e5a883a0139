import errno
import fcntl
import json
import os
import signal

import pytest

from micro_diffusion.checkpoint import read_config
from micro_diffusion.files import whole_file
from micro_diffusion.training.checkpoints import run_folder
from micro_diffusion.training.checkpoints.run_folder import RunFolder
from tests.forked_process import fork

COSINE = "composer.optim.CosineAnnealingScheduler"
CONFIG = {
    "exp_name": "mine",
    "output_dir": "runs",
    "accept_changes": [],
    "seed": 0,
    "model": {"ratio": 0.75, "bands": [1, 2]},
    "schedule": {"_target_": "composer.optim.ConstantScheduler"},
    "algorithms": {},
    "trainer": {"max_duration": "10ba"},
    "loggers": {},
    "train_loader": {},
}


def test_a_fresh_folder_is_neither_refused_nor_complete(tmp_path):
    run = RunFolder(tmp_path / "run", CONFIG)
    run.check()
    assert not run.is_complete
    run.begin(step=0)
    assert read_config(run.path) == CONFIG and not run.is_complete


def begin(folder, config):
    """A run that has got as far as an image."""
    RunFolder(folder, config).begin(step=0)
    (folder / "samples").mkdir()
    (folder / "samples" / "step_0000009.png").touch()


def test_a_run_that_failed_at_once_does_not_hold_its_folder(tmp_path):
    RunFolder(tmp_path, CONFIG).begin(step=0)
    RunFolder(tmp_path, CONFIG | {"seed": 1}).check()


def test_another_configuration_is_refused_and_the_difference_named(tmp_path):
    begin(tmp_path, CONFIG)
    other = CONFIG | {"seed": 1, "model": {"ratio": 0.5, "bands": [1, 2]}}
    with pytest.raises(
        ValueError, match=r"differs in seed=1 \(was 0\), model.ratio=0.5 \(was 0.75\); choose another exp_name"
    ):
        RunFolder(tmp_path, other).check()


def test_checkpoints_of_another_run_are_refused_wherever_they_are(tmp_path):
    elsewhere = {"trainer": {"max_duration": "10ba", "save_folder": str(tmp_path / "shared")}}
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "ep0-ba3-rank0.pt").touch()
    first, second = (RunFolder(tmp_path / name, CONFIG | elsewhere) for name in ("first", "second"))
    first.begin(step=3)
    first.check()
    with pytest.raises(ValueError, match=r"shared holds checkpoints, but \S+/second no config.yaml of the run that"):
        second.check()
    with pytest.raises(ValueError, match=r"differs in seed=1 \(was 0\)"):  # though nothing but those is there yet
        RunFolder(tmp_path / "first", CONFIG | elsewhere | {"seed": 1}).check()


def test_what_changes_is_logged_and_kept(tmp_path, caplog):
    begin(tmp_path, CONFIG)
    moved = {"trainer": {"max_duration": "20ba"}, "train_loader": {"workers": 3}, "schedule": {"_target_": COSINE}}
    with pytest.raises(
        ValueError, match=r"resume that run, or accept_changes=\[schedule\._target_,trainer\.max_duration\]"
    ):
        RunFolder(tmp_path, CONFIG | moved).check()
    run = RunFolder(tmp_path, CONFIG | moved | {"accept_changes": ["schedule", "trainer.max_duration"]})
    run.check()
    with caplog.at_level("INFO"):
        run.begin(step=4)
    assert "goes on at step 4 with trainer.max_duration=20ba (was 10ba)" in caplog.messages
    lines = [json.loads(line) for line in (tmp_path / "changes.jsonl").read_text().splitlines()]
    assert {"step": 4, "key": "train_loader.workers", "before": None, "after": 3} in lines
    assert len(lines) == len(caplog.messages) == 4
    run.check()
    run.begin(step=8)  # the same command again
    assert len((tmp_path / "changes.jsonl").read_text().splitlines()) == 4


def test_a_kill_or_a_full_disk_while_changes_are_noted_neither_doubles_nor_cuts_them(tmp_path, monkeypatch):
    begin(tmp_path, CONFIG)
    path = tmp_path / "changes.jsonl"
    path.touch()

    def fails(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for workers in (3, 5):
        noted = path.read_text()
        run = RunFolder(tmp_path, CONFIG | {"train_loader": {"workers": workers}, "loggers": {"more": workers}})
        with monkeypatch.context() as patch:
            patch.setattr(whole_file, "sync", fails)
            with pytest.raises(OSError, match="No space"):
                run.begin(step=4)
        assert path.read_text() == noted
        with monkeypatch.context() as patch:
            patch.setattr(run_folder, "write_config", fails)  # after the lines
            with pytest.raises(OSError, match="No space"):
                run.begin(step=4)
        run.begin(step=4)  # the same command again
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["key"], line["after"]) for line in lines] == [
        ("loggers.more", 3), ("train_loader.workers", 3), ("loggers.more", 5), ("train_loader.workers", 5),
    ]  # fmt: skip


def test_what_cannot_change_within_a_run_is_not_offered(tmp_path):
    begin(tmp_path, CONFIG)
    with pytest.raises(
        ValueError, match=r"seed=1 \(was 0\), train_loader\.path=a \(was None\); .*set these back to resume that run$"
    ):
        RunFolder(tmp_path, CONFIG | {"train_loader": {"path": "a"}, "seed": 1}).check()


@pytest.mark.parametrize("load_path", ["other.pt", None])
def test_the_checkpoint_that_a_run_started_from_may_not_change(tmp_path, load_path):
    begin(tmp_path, CONFIG | {"trainer": {"max_duration": "10ba", "load_path": "first.pt"}})
    with pytest.raises(ValueError, match=rf"differs in trainer\.load_path={load_path} \(was first\.pt\)"):
        RunFolder(tmp_path, CONFIG | {"trainer": {"max_duration": "10ba", "load_path": load_path}}).check()


def test_complete_until_a_longer_training_is_asked_for(tmp_path):
    run = RunFolder(tmp_path, CONFIG)
    run.begin(step=0)
    run.finish(batches=10)
    assert run.is_complete
    assert json.loads((tmp_path / "complete.json").read_text()) == {"max_duration": "10ba", "batches": 10}
    assert not RunFolder(tmp_path, CONFIG | {"trainer": {"max_duration": "20ba"}}).is_complete


def test_a_second_training_in_the_folder_is_refused_while_the_first_one_lives(tmp_path):
    run, (ready, begun) = RunFolder(tmp_path, CONFIG), os.pipe()

    def train() -> None:
        with run.locked():
            os.write(begun, b"!")
            signal.pause()

    first = fork(train, tmp_path / "log")
    assert os.read(ready, 1)
    with (
        pytest.raises(OSError, match=rf"is in use by another training \(process {first} on .*; wait until"),
        run.locked(),
    ):
        pass
    os.kill(first, signal.SIGKILL)
    os.waitpid(first, 0)
    with run.locked():
        pass


def test_a_folder_that_cannot_be_locked_is_used_with_a_warning(tmp_path, monkeypatch, caplog):
    def without_locks(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", without_locks)
    with RunFolder(tmp_path, CONFIG).locked():
        assert "cannot be locked ([Errno 37] No locks available), so a second training in it is not" in caplog.text


def with_precision(precision, **model):
    return {**CONFIG, "machine": {"device": "cpu"}, "model": {"cpu_precision": precision, **model}}


def test_the_precision_on_a_cpu_is_measured_once_and_kept(tmp_path, monkeypatch):
    for measured in ("fp32", "bf16"):
        monkeypatch.setattr(run_folder, "faster_on_cpu", lambda answer=measured: answer)
        begun = RunFolder(tmp_path / measured, with_precision("auto"))
        assert begun.settle_cpu_precision() == measured
        begin(begun.path, begun.config)
        assert read_config(begun.path)["model"]["cpu_precision"] == measured
    resumed = RunFolder(tmp_path / "fp32", with_precision("auto"))  # where bf16 is faster by now
    resumed.check()
    assert resumed.settle_cpu_precision() == "fp32" and resumed.changes() == []
    with pytest.raises(ValueError, match=r"model.cpu_precision=bf16 \(was fp32\)"):
        RunFolder(tmp_path / "fp32", with_precision("bf16")).check()


@pytest.mark.parametrize(("native", "kept"), [(True, "bf16"), (False, "fp32")])
def test_a_run_of_an_earlier_version_keeps_what_auto_was(tmp_path, monkeypatch, native, kept):
    begin(tmp_path / "run", with_precision("auto"))
    monkeypatch.setattr(run_folder, "has_bf16", lambda _: native)
    resumed = RunFolder(tmp_path / "run", with_precision("auto"))
    resumed.check()
    assert resumed.settle_cpu_precision() == kept


def test_a_stated_precision_and_that_of_a_gpu_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "faster_on_cpu", lambda: pytest.fail("measured"))
    assert RunFolder(tmp_path, with_precision("bf16")).settle_cpu_precision() == "bf16"
    assert RunFolder(tmp_path, with_precision("auto", weight_dtype="bf16")).settle_cpu_precision() == "bf16"
    on_gpu = {**with_precision("auto"), "machine": {"device": "gpu"}}
    assert RunFolder(tmp_path, on_gpu).settle_cpu_precision() == "auto"
