"""Copies of checkpoints in S3, on a real server on this machine: a run goes on from the newest whole one."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path

import pytest
import torch
from s3transfer.upload import UploadPartTask

from micro_diffusion.training.checkpoints import files as checkpoint_files
from micro_diffusion.training.checkpoints.files import LATEST, is_whole
from micro_diffusion.training.checkpoints.resumption import OwnCheckpoints, own_checkpoints
from micro_diffusion.training.checkpoints.run_folder import RunFolder
from micro_diffusion.training.checkpoints.saver import WholeCheckpointSaver
from tests.damage import damaged
from tests.data.s3_server import s3_client
from tests.training.checkpoints.test_saver import LOGGER, at, names, save

CONFIG = {
    "seed": 1,
    "output_dir": "runs",
    "exp_name": "mine",
    "accept_changes": [],
    "trainer": {"max_duration": "10ba", "save_folder": "s3://data/mine"},
}
FILES = ["ep1-ba2-rank0.pt", "ep1-ba4-rank0.pt"]


@pytest.fixture(scope="module")
def server():
    with s3_client("data") as made:
        yield made


@pytest.fixture
def client(server, monkeypatch):
    """A client of a server whose bucket `data` is empty, which is asked once for everything."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    for name in objects(server):
        server.delete_object(Bucket="data", Key=name)
    return server


@pytest.fixture(autouse=True)
def written_content(monkeypatch):
    content = {"a": torch.zeros(1000)}
    monkeypatch.setattr(checkpoint_files, "save_checkpoint", lambda state, filename: torch.save(content, filename))
    return content


def begun(folder: Path, **changes) -> tuple[RunFolder, OwnCheckpoints]:
    """A run as it starts, or goes on, in a folder."""
    run = RunFolder(folder, {**CONFIG, **changes})
    own = own_checkpoints(run, autoresume=True)
    assert own is not None
    run.begin(step=0)
    return run, own


def saver(own: OwnCheckpoints, **options) -> WholeCheckpointSaver:
    made = WholeCheckpointSaver(
        folder=str(own.folder),
        there=own.there,
        interval="2ba",
        keep=1,
        remote=own.remote,
        **{"is_urgent": lambda: False, **options},
    )
    made.init(at(0), LOGGER)
    return made


@pytest.fixture
def copied(client, tmp_path) -> Path:
    """The folder of a run that has copied two checkpoints."""
    some = saver(begun(tmp_path / "run")[1])
    save(some, 2, 4)
    some.fit_end(at(4), LOGGER)
    return tmp_path / "run"


def objects(client) -> list[str]:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket="data")
    return sorted(held["Key"] for page in pages for held in page.get("Contents", []))


def there(folder: Path, **changes) -> list[str]:
    return [path.name for path in begun(folder, **changes)[1].there]


def test_all_are_copied_and_the_link_names_the_last(client, copied):
    assert objects(client) == [f"mine/{name}" for name in ["config.yaml", *FILES, f"{LATEST}.symlink"]]
    assert client.get_object(Bucket="data", Key=f"mine/{LATEST}.symlink")["Body"].read().decode() == f"mine/{FILES[1]}"
    assert names(copied / "checkpoints") == [FILES[1], LATEST]


def test_another_machine_goes_on_from_the_newest(copied, tmp_path):
    assert there(tmp_path / "elsewhere") == FILES[1:]
    assert is_whole(tmp_path / "elsewhere" / "checkpoints" / FILES[1])
    assert there(copied) == FILES[1:]


@pytest.mark.parametrize("way", ["truncated", "flipped", "empty"])
def test_a_damaged_copy_is_passed_over(client, copied, tmp_path, way, caplog):
    whole = copied / "checkpoints" / FILES[1]
    client.put_object(Bucket="data", Key=f"mine/{FILES[1]}", Body=damaged(whole, way))
    with caplog.at_level(logging.WARNING):
        assert there(tmp_path / "elsewhere") == FILES[:1]
    assert f"the remote checkpoint s3://data/mine/{FILES[1]} is damaged and passed over" in caplog.text
    assert names(tmp_path / "elsewhere" / "checkpoints") == FILES[:1]


def test_a_run_none_of_whose_checkpoints_is_whole_does_not_begin_again(client, copied, tmp_path):
    for name in FILES:
        client.put_object(Bucket="data", Key=f"mine/{name}", Body=b"PK")
    assert there(copied) == FILES[1:]  # which is whole here
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"s3://data/mine holds no whole checkpoint, only ep1-ba2-rank0\.pt and ep"
        ):
            there(tmp_path / "elsewhere")


def test_a_damaged_file_is_replaced_by_its_copy(copied):
    whole = copied / "checkpoints" / FILES[1]
    content = whole.read_bytes()
    whole.write_bytes(content[:-100])
    assert there(copied) == FILES[1:]
    assert whole.read_bytes() == content


def test_shares_count_when_their_digest_is_there(client, copied, tmp_path):
    folder = tmp_path / "ep1-ba6"
    folder.mkdir()
    for name in (".metadata", "__0_0.distcp", "metadata.sha256"):
        (folder / name).write_text(name)
    remote = begun(copied)[1].remote
    client.put_object(Bucket="data", Key="mine/ep1-ba6/.metadata", Body=b"")
    assert not remote.has(folder)
    remote.copy(folder)
    assert remote.has(folder)
    assert there(tmp_path / "elsewhere") == FILES[1:]  # after they were fetched, and found to be none


def test_objects_stay_in_their_folder(client, copied, tmp_path):
    for name in (".metadata", "metadata.sha256", "../../../escaped"):
        client.put_object(Bucket="data", Key=f"mine/ep1-ba6/{name}", Body=b"")
    with pytest.raises(
        ValueError, match=r"s3://data/mine/ep1-ba6 has the object mine/ep1-ba6/\.\./\.\./\.\./escaped, w"
    ):
        there(tmp_path / "deep" / "elsewhere")
    assert list(tmp_path.rglob("escaped")) == []


def test_a_run_of_another_configuration_is_refused(copied, tmp_path):
    with pytest.raises(ValueError, match=r"s3://data/mine holds a run of another configuration, which differs in seed"):
        there(tmp_path / "elsewhere", seed=2)
    assert not (tmp_path / "elsewhere").exists()


def test_a_kill_during_the_copy_leaves_the_one_before(client, copied, tmp_path, written_content, monkeypatch):
    written_content["a"] = torch.zeros(5_000_000)  # 20 MB, in three parts
    child = os.fork()
    if not child:
        monkeypatch.setattr(UploadPartTask, "_main", lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL))
        some = saver(begun(copied)[1])
        save(some, 6)
        some.fit_end(at(6), LOGGER)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert f"mine/{FILES[1]}" in objects(client) and "mine/ep1-ba6-rank0.pt" not in objects(client)
    assert there(tmp_path / "elsewhere") == FILES[1:]
    saver(begun(copied)[1])  # which copies what the kill has cut off
    assert there(tmp_path / "third") == ["ep1-ba6-rank0.pt"]


def test_a_network_that_fails_is_said_and_ends_nothing_before_the_end(client, copied, monkeypatch, caplog):
    own = begun(copied)[1]
    some = saver(own)
    with monkeypatch.context() as patch:
        patch.setattr(own.remote._store, "upload_object", unreachable)
        save(some, 6, 8)
        assert "ep1-ba6-rank0.pt cannot be copied to s3://data/mine (Could not connect)" in caplog.text
        own.remote.failure()
    save(some, 10)
    some.fit_end(at(10), LOGGER)
    assert "mine/ep1-ba10-rank0.pt" in objects(client) and is_whole(copied / "checkpoints" / LATEST)
    monkeypatch.setattr(own.remote._store, "upload_object", unreachable)
    save(some, 12)
    with pytest.raises(OSError, match=r"ep1-ba12-rank0.pt cannot be copied to s3://data/mine \(Could not connect\);"):
        some.fit_end(at(12), LOGGER)


def unreachable(*arguments):
    raise ConnectionError("Could not connect")


def test_a_store_that_cannot_be_reached_is_said_at_the_start(client, tmp_path, monkeypatch):
    monkeypatch.setenv("S3_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(OSError, match=r"s3://data/mine cannot be listed \(Could not connect .*; check trainer.save"):
        begun(tmp_path / "run")


def test_a_store_of_unknown_kind_is_said_at_the_start(tmp_path):
    config = {**CONFIG, "trainer": {**CONFIG["trainer"], "save_folder": "ftp://data/mine"}}
    with pytest.raises(OSError, match=r"ftp://data/mine cannot be used \(There is no implementation .*; check trainer"):
        own_checkpoints(RunFolder(tmp_path, config), autoresume=True)
