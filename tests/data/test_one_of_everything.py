"""`scripts/convert.py` on a folder, an archive and a table with one of everything, as docs/data.md has it."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from streaming import LocalDataset

from tests.data.sources.publishers import write_parquet
from tests.forked_process import run_script

CONVERT = Path(__file__).resolve().parents[2] / "scripts" / "convert.py"


def save(path: Path, caption: str | None = "a thing", suffix: str = ".txt", form: str = "PNG") -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), "red").save(path, format=form)
    if caption is not None:
        path.with_suffix(suffix).write_text(caption)
    return path.read_bytes()


def convert(cwd: Path, *arguments: str) -> tuple[dict[str, str], dict[str, str], str]:
    """Captions and reasons by key, and what was said."""
    done = run_script(CONVERT, *arguments, "out=made", "engine.count=1", cwd=cwd)
    assert done.returncode == 0, done.stderr
    data = LocalDataset(str(cwd / "made"))
    used = {data[i]["key"]: data[i]["caption"] for i in range(len(data))}
    rejects = [json.loads(line) for line in (cwd / "made" / "rejects.jsonl").read_text().splitlines()]
    return used, {item["key"]: item["reason"] for item in rejects}, done.stdout + done.stderr


def test_a_folder(tmp_path):
    root = tmp_path / "Bücher & [Bäume] ~ a=b"
    save(root / "plain.png")
    save(root / "phone.JFIF", suffix=".caption", form="JPEG")
    save(root / "mit Leerzeichen #1=ä.png", "ein Baum,  ein\nBuch")
    save(root / "v1.5.png")
    Image.fromarray(np.full((6, 8), 40_000, np.uint16)).save(root / "deep.png")
    (root / "deep.TXT").write_text("sixteen bits")
    save(root / "no caption.png", None)
    save(root / "empty.png", " \n")
    (root / "latin.png").write_bytes(save(root / "latin.png"))
    (root / "latin.txt").write_bytes("Bäume".encode("latin-1"))
    (root / "broken.png").write_bytes(b"no image")
    (root / "broken.txt").write_text("a thing")
    (root / "new.heic").write_bytes(b"ftypheic")
    (root / "._plain.png").write_bytes(b"Mac OS X")
    (root / "notes.md").write_text("nothing")
    for name in ("listed", "forgotten"):
        save(root / "list" / f"{name}.png", None)
    (root / "list" / "metadata.csv").write_text(
        'file_name,text\nlisted.png,"one, two"\ngone.png,three\n../../secret.png,four\n'
    )
    save(tmp_path / "secret.png")
    save(tmp_path / "elsewhere" / "linked.png")
    (root / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)

    used, left_out, said = convert(tmp_path, "source=image_folder", f"source.path={root.name}")
    assert used == {
        "list/listed.png": "one, two",
        "deep.png": "sixteen bits",
        "link/linked.png": "a thing",
        "mit Leerzeichen #1=ä.png": "ein Baum, ein Buch",
        "phone.JFIF": "a thing",
        "plain.png": "a thing",
        "v1.5.png": "a thing",
    }
    assert left_out == {
        "list/gone.png": "no such image",
        "list/../../secret.png": "path leads out of the folder",
        "broken.png": "unreadable image",
        "empty.png": "empty caption",
        "latin.png": "caption is no valid Unicode",
        "list/forgotten.png": "not in the list of captions",
        "new.heic": ".heic files are not read; convert them to JPEG or PNG",
        "no caption.png": "no caption",
    }
    assert all(f"left out 1: {reason}" in said for reason in left_out.values())

    (root / "plain.txt").write_text("something else")
    again = run_script(
        CONVERT, "source=image_folder", f"source.path={root.name}", "out=made", "engine.count=1", cwd=tmp_path
    )
    assert again.returncode == 1
    assert "1 changed: plain.txt); set update=true" in again.stderr


def test_an_archive(tmp_path):
    files = tmp_path / "files"
    save(files / "0.png")
    save(files / "1.5.png")
    save(files / "2.png", None)
    (files / "3.png").write_bytes(b"no image")
    (files / "3.txt").write_text("a thing")
    (files / "._0.png").write_bytes(b"Mac OS X")
    (files / "4.txt").write_text("without an image")
    (files / "5.png").symlink_to("0.png")
    save(files / "6.png", "late")
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars" / "a.tar", "w") as tar:
        names = sorted(path.name for path in files.iterdir() if path.name != "6.txt")
        for name in [*names, "6.txt"]:
            tar.add(files / name, name)
            if name == "6.png":
                tar.add(files / "0.txt", "7.txt")
    with tarfile.open(tmp_path / "tars" / "b.tar", "w"):
        pass
    used, left_out, _ = convert(tmp_path, "source=webdataset", "source.path=tars")
    assert used == {"a/0": "a thing", "a/1.5": "a thing"}
    unsorted = "its files do not follow each other in the archive, which tar --sort=name makes them do"
    assert left_out == {
        "a/2": "no caption",
        "a/3": "unreadable image",
        "a/4": "no image",
        "a/5": "no plain file",
        "a/6": unsorted,
        "a/7": "no image",
    }


def test_a_table(tmp_path):
    pytest.importorskip("pyarrow")
    content = save(tmp_path / "tables" / "in.png", None)
    (tmp_path / "out.png").write_bytes(content)
    cells = [
        {"bytes": content, "path": None},
        {"bytes": None, "path": "in.png"},
        {"bytes": None, "path": "../out.png"},
        {"bytes": None, "path": None},
        {"bytes": b"no image", "path": None},
        {"bytes": content, "path": None},
    ]
    captions = ["one", "two", "three", "four", "five", None]
    write_parquet(tmp_path / "tables" / "t.parquet", {"image": cells, "caption": captions})
    used, left_out, _ = convert(tmp_path, "source=parquet", "source.path=tables")
    assert used == {"t/0": "one", "t/1": "two"}
    assert left_out == {
        "t/2": "path leads out of the folder",
        "t/3": "no such image",
        "t/4": "unreadable image",
        "t/5": "no caption",
    }
