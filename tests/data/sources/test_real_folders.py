"""Folders, lists and archives as people have them: what is used, what is left out and counted, what is refused."""

from __future__ import annotations

import json
import os
import tarfile
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from micro_diffusion.data.sources.hf_dataset import HfDataset
from micro_diffusion.data.sources.image_folder import ImageFolder
from micro_diffusion.data.sources.listed_files import read_file
from micro_diffusion.data.sources.source import CaptionedImage, Rejected, Source
from micro_diffusion.data.sources.web_dataset import UNSORTED, WebDataset


def save(path: Path, caption: str | None = "a thing", suffix: str = ".txt") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), "red").save(path, format="PNG")
    if caption is not None:
        path.with_suffix(suffix).write_text(caption)
    return path


def found(source: Source) -> dict[str, str]:
    """The caption of every image, or the reason for which it is left out."""
    items = [item for part in source.parts() for item in source.read(part)]
    return {item.key: item.reason if isinstance(item, Rejected) else item.caption for item in items}


def folder(path: Path) -> dict[str, str]:
    return found(ImageFolder(path=str(path)))


def test_everything_that_is_an_image_is_used_or_counted(tmp_path):
    save(tmp_path / "elsewhere" / "linked.png")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "mine" / "loop").symlink_to(tmp_path / "mine", target_is_directory=True)
    save(tmp_path / "mine" / "a.jfif", suffix=".TXT")
    save(tmp_path / "mine" / "b.png", suffix=".caption")
    (tmp_path / "mine" / "c.HEIC").write_bytes(b"ftypheic")
    (tmp_path / "mine" / "._a.jfif").write_bytes(b"Mac OS X")
    (tmp_path / "mine" / "notes.md").touch()
    assert folder(tmp_path / "mine") == {
        "a.jfif": "a thing",
        "b.png": "a thing",
        "c.HEIC": ".heic files are not read; convert them to JPEG or PNG",
        "link/linked.png": "a thing",
    }


def test_lists_hold_for_their_folder_and_those_below(tmp_path):
    for name in ("listed.png", "forgotten.png", "deeper/own.png", "deeper/from_above.png"):
        save(tmp_path / name, caption=None)
    (tmp_path / "metadata.csv").write_text('file_name,text\nlisted.png,"one, two"\ndeeper/from_above.png,three\n')
    (tmp_path / "deeper" / "metadata.jsonl").write_text('{"file_name": "own.png", "caption": "four"}\n')
    assert folder(tmp_path) == {
        "listed.png": "one, two",
        "deeper/from_above.png": "three",
        "deeper/own.png": "four",
        "forgotten.png": "not in the list of captions",
    }


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            "a.png,a cat, asleep\n",
            "entry 1 of .* has more cells than the header, the last ' asleep'; put captions with",
        ),
        ('a.png,"a cat\nb.png,"a dog"\n', "is no table .*; close every quote"),
        ('a.png,"a cat\nb.png,a dog\n', "is no table .*; close every quote"),
        ("a.png\n", "entry 1 of .* has fewer cells than the header"),
    ],
)
def test_a_table_that_would_lose_something_is_refused(tmp_path, rows, message):
    (tmp_path / "captions.csv").write_text("file_name,caption\n" + rows)
    with pytest.raises(ValueError, match=message):
        ImageFolder(path=str(tmp_path))


def test_names_with_accents_are_found_in_either_form(tmp_path):
    save(tmp_path / unicodedata.normalize("NFD", "schön.png"), caption=None)
    name = unicodedata.normalize("NFC", "schön.png")
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": name, "caption": "nice"}))
    assert folder(tmp_path) == {name: "nice"}


def test_no_name_leads_out_of_a_folder_however_it_is_given(tmp_path, monkeypatch):
    save(tmp_path / "secret.png")
    save(tmp_path / "mine" / "a.png")
    monkeypatch.chdir(tmp_path / "mine")
    for root in (Path("."), Path("..", "mine"), tmp_path / "mine"):
        assert read_file(root, "../secret.png") == "path leads out of the folder"
        assert read_file(root, "a.png") == (tmp_path / "mine" / "a.png").read_bytes()


def archive(path: Path, *names: str) -> Path:
    with tarfile.open(path, "w") as tar:
        for name in names:
            source = path.with_name("member")
            if name.endswith("txt"):
                source.write_text(f"of {name}")
            elif os.path.basename(name).startswith("._"):
                source.write_bytes(b"Mac OS X")
            else:
                save(source, caption=None)
            tar.add(source, name)
    return path


def test_sample_names_with_dots_and_leftovers_of_macos(tmp_path):
    names = ["22.05.png", "22.05.txt", "22.06.png", "22.06.txt", "._x.input.jpg", "x.input.jpg", "x.txt", "y.png"]
    archive(tmp_path / "a.tar", "__MACOSX/22.05.png", *names, "y.mask.png", "y.txt")
    assert found(WebDataset(path=str(tmp_path))) == {
        "a/22.05": "of 22.05.txt",
        "a/22.06": "of 22.06.txt",
        "a/x.input": "of x.txt",
        "a/y": "of y.txt",
    }


def test_a_file_that_may_not_be_read_is_left_out_and_the_rest_is_used(tmp_path, monkeypatch):
    for name in ("a", "b", "c"):
        save(tmp_path / f"{name}.png")
    read = Path.read_bytes

    def refused(path: Path) -> bytes:
        if path.name in ("a.png", "b.txt"):
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refused)
    assert folder(tmp_path) == {
        "a.png": "file cannot be read (permission denied)",
        "b.png": "caption cannot be read (permission denied)",
        "c.png": "a thing",
    }


def test_archives_that_are_not_sorted_say_so(tmp_path):
    names = [save(tmp_path / "files" / f"{name}.png") for name in "ab"]
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for path in [*names, *(name.with_suffix(".txt") for name in names)]:
            tar.add(path, path.name)
    source = WebDataset(path=str(tmp_path))
    items = [item for part in source.parts() for item in source.read(part)]
    assert all(isinstance(item, Rejected) for item in items)
    assert {item.reason for item in items if isinstance(item, Rejected)} == {"no caption", UNSORTED}


def test_an_empty_archive_says_nothing_of_the_number_of_images(tmp_path):
    images = [save(tmp_path / "files" / f"{name}.png") for name in "abcd"]
    with tarfile.open(tmp_path / "0.tar", "w"):
        pass
    with tarfile.open(tmp_path / "1.tar", "w") as tar:
        for path in images:
            tar.add(path, path.name)
    assert len(WebDataset(path=str(tmp_path))) >= 4
    assert len(WebDataset(path=str(tmp_path), shards="0.tar")) == 0


def test_a_relative_path_to_a_folder_of_the_library_datasets(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    for name in "ab":
        save(tmp_path / "mine" / f"{name}.png", caption=None)
    (tmp_path / "mine" / "a.png").write_bytes(b"damaged")
    lines = [json.dumps({"file_name": f"{name}.png", "caption": name}) + "\n" for name in "ab"]
    (tmp_path / "mine" / "metadata.jsonl").write_text("".join(lines))
    monkeypatch.chdir(tmp_path)
    source = HfDataset(path="mine")
    (damaged, whole) = [item for part in source.parts() for item in source.read(part)]
    assert isinstance(damaged, CaptionedImage) and damaged.image == b"damaged"  # which the conversion rejects
    assert isinstance(whole, CaptionedImage) and whole.image == (tmp_path / "mine" / "b.png").read_bytes()
