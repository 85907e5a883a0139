"""A remote folder holds what a local one would, on a real S3 server on this machine."""

import os
from pathlib import Path

import pytest

from micro_diffusion.data.prepare.convert import convert
from micro_diffusion.data.prepare.engine import Processes
from micro_diffusion.data.prepare.parts import writing
from micro_diffusion.data.prepare.preparation import Preparation
from micro_diffusion.data.prepare.storage import LocalStorage, RemoteStorage, is_remote
from micro_diffusion.data.sources.shapes import Shapes
from tests.data.s3_server import s3_client


@pytest.fixture(scope="module")
def bucket():
    """The name of an empty bucket, whose server the environment names."""
    with s3_client("images"):
        yield "images"


def objects(bucket: str, prefix: str) -> dict[str, bytes]:
    import boto3

    client = boto3.client("s3", endpoint_url=os.environ["S3_ENDPOINT_URL"])
    listed = client.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
    return {
        entry["Key"].removeprefix(prefix): client.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read()
        for entry in listed
    }


def run(out: str | Path, *, seed: int = 0, count: int = 1, minimum_side: int = 1) -> None:
    convert(
        source=Shapes(seed=seed, count=300, resolution=8),
        out=out,
        preparation=Preparation(minimum_side=minimum_side),
        engine=Processes(count=count),
        part_size=128,
    )


def test_a_remote_data_set_is_the_local_one(bucket, tmp_path):
    out = f"s3://{bucket}/shapes"
    run(out)
    run(tmp_path / "local")
    there = objects(bucket, "shapes/")
    for path in (tmp_path / "local").rglob("*.*"):
        assert there[path.relative_to(tmp_path / "local").as_posix()] == path.read_bytes()
    run(out)
    assert objects(bucket, "shapes/") == there
    with pytest.raises(FileExistsError, match=f"{out} was made with other settings"):
        run(out, seed=1)


def test_a_remote_folder_without_an_image_is_to_be_removed(bucket):
    out = f"s3://{bucket}/tiny"
    with pytest.raises(ValueError, match=rf"below 9 px: 300\); check its settings, and remove {out} before you give"):
        run(out, minimum_side=9)


def test_an_interrupted_upload_goes_on(bucket, tmp_path, monkeypatch):
    published = RemoteStorage.publish

    def failing(self, scratch, names):
        if "parts/00002.json" in names:
            raise ConnectionError("the network is gone")
        published(self, scratch, names)

    out = f"s3://{bucket}/interrupted"
    with monkeypatch.context() as patch:
        patch.setattr(RemoteStorage, "publish", failing)
        with pytest.raises(ConnectionError, match="the network is gone"):
            run(out)
    assert RemoteStorage(out).names("parts") == {"00000.json", "00001.json"}
    assert "index.json" not in objects(bucket, "interrupted/")
    run(out)
    run(tmp_path / "local")
    assert objects(bucket, "interrupted/")["index.json"] == (tmp_path / "local" / "index.json").read_bytes()


def test_a_server_that_does_not_answer_is_named(bucket, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr("streaming.base.util.sleep", lambda seconds: None)
    known, new = RemoteStorage(f"s3://{bucket}/known"), RemoteStorage(f"s3://{bucket}/new")
    known.publish(tmp_path, ["file"])  # its connection stays
    monkeypatch.setenv("S3_ENDPOINT_URL", "http://127.0.0.1:9")
    for work in (
        lambda: known.read("file"),
        lambda: new.names("parts"),
        lambda: new.publish(tmp_path, ["file"]),
        lambda: run(new.root),
    ):
        with pytest.raises(OSError, match=r"s3://.* cannot be .* \(.*127\.0\.0\.1:9.*\); check .* same command"):
            work()


def test_local_files_appear_under_their_names_only_when_whole(tmp_path):
    storage = LocalStorage(tmp_path / "data")

    def write() -> None:
        with writing(storage, 0, columns={"n": "int"}, size_limit="1mb") as part:
            part.write({"n": 1})
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        write()
    assert storage.names("parts") == set()
    assert list(storage.root.iterdir()) == []
    assert storage.read("nothing") is None


def test_a_url_of_an_unknown_kind_is_refused():
    assert is_remote("s3://bucket/name") and not is_remote("data/images")
    with pytest.raises(ValueError, match=r"nothing can be written to ftp://host/x; set out to .* s3://"):
        is_remote("ftp://host/x")
