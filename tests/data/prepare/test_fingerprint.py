"""A data set whose source has changed since is noticed and made again; what has not changed is not."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image
from streaming import LocalDataset

from micro_diffusion.autoencoder.identity import IdentityAutoencoder
from micro_diffusion.data.format.record import RECORD
from micro_diffusion.data.prepare import convert as conversion
from micro_diffusion.data.prepare import parts
from micro_diffusion.data.prepare import precompute as encoding
from micro_diffusion.data.prepare.convert import convert
from micro_diffusion.data.prepare.engine import Processes
from micro_diffusion.data.prepare.fingerprint import Fingerprint
from micro_diffusion.data.prepare.precompute import precompute
from micro_diffusion.data.prepare.preparation import Preparation
from micro_diffusion.data.sources.image_folder import ImageFolder
from micro_diffusion.files.json_text import parse_json
from micro_diffusion.text.tiny import TinyTextEncoder


def make(source: Path, out: Path, **options) -> None:
    options = {"engine": Processes(count=1), "preparation": Preparation(), **options}
    convert(source=ImageFolder(path=str(source)), out=out, **options)


def captions(out: Path) -> list[str]:
    dataset = LocalDataset(str(out))
    return [dataset[i]["caption"] for i in range(len(dataset))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in "abc":
        Image.new("RGB", (8, 8), "red").save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(f"a {name}")
    return tmp_path


def test_edited_captions_and_new_images_are_an_error_that_names_them_and_update_takes_them(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "images"
    make(folder, out)
    make(folder, out)
    (folder / "a.txt").write_text("another a")
    Image.new("RGB", (8, 8), "blue").save(folder / "d.png")
    with pytest.raises(FileExistsError, match=r"1 changed: a.txt; 1 new: d.png.*update=true"):
        make(folder, out)
    (folder / "d.txt").write_text("a d")
    make(folder, out, update=True)
    assert captions(out) == ["another a", "a b", "a c", "a d"]
    assert sorted(path.name for path in out.parent.iterdir()) == ["images"]
    make(folder, out)


def test_a_list_that_says_something_else_is_a_change(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "images"
    table = folder / "captions.csv"
    for text in ("one", "two"):
        table.write_text("file_name,caption\n" + "".join(f"{name}.png,{text}\n" for name in "abc"))
        if text == "two":
            with pytest.raises(FileExistsError, match="what its lists say"):
                make(folder, out)
        make(folder, out, update=True)
        assert captions(out) == [text] * 3


def test_a_folder_without_fingerprint_is_accepted(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "images"
    make(folder, out)
    record = parse_json((out / RECORD).read_text())
    del record["recipe"]["source_files"]
    (out / RECORD).write_text(json.dumps(record))
    (out / "source_files.json").unlink()
    (folder / "a.txt").write_text("another a")
    make(folder, out)
    assert captions(out)[0] == "a a"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def made_again(monkeypatch) -> list[int]:
    """Numbers of the parts that are converted or encoded, with one image each."""
    monkeypatch.setattr("micro_diffusion.data.sources.listed_files.PART", 1)
    done: list[int] = []
    begin = parts.writing

    def noted(storage, number, **options):
        done.append(number)
        return begin(storage, number, **options)

    for module in (conversion, encoding):
        monkeypatch.setattr(module, "writing", noted)
    return done


def encode(images: Path, out: Path, **options) -> None:
    autoencoder, text_encoder = IdentityAutoencoder(), TinyTextEncoder(dim=9, max_length=4)
    encoders = {"autoencoder": autoencoder, "text_encoder": text_encoder}
    precompute(images=images, out=out, resolutions=[8], part_size=1, **encoders, **options)


def test_an_update_makes_the_changed_parts_and_equals_a_new_conversion_byte_for_byte(
    folder, tmp_path_factory, made_again
):
    out = tmp_path_factory.mktemp("out")
    make(folder, out / "images", part_size=1)
    encode(out / "images", out / "latents")
    (folder / "b.txt").write_text("another b")
    (folder / "bad.png").write_bytes(b"no image")
    (folder / "bad.txt").write_text("a bad one")
    made_again.clear()
    make(folder, out / "images", part_size=1, update=True)
    assert made_again == [1, 2]  # b and bad; a stays and c moves
    made_again.clear()
    with pytest.raises(FileExistsError, match=r"1 changed: .*1 new: shard.*; 1 gone: shard.*set update=true"):
        encode(out / "images", out / "latents")
    encode(out / "images", out / "latents", update=True)
    assert made_again == [1]
    make(folder, out / "new images", part_size=1)
    encode(out / "new images", out / "new latents")
    for name in ("images", "latents"):
        assert contents(out / name) == contents(out / f"new {name}")
    made_again.clear()
    for update in (False, True):
        make(folder, out / "images", part_size=1, update=update)
        encode(out / "images", out / "latents", update=update)
    assert made_again == []


def test_a_folder_of_an_earlier_version_without_records_of_its_parts_is_made_again(
    folder, tmp_path_factory, made_again
):
    out = tmp_path_factory.mktemp("out") / "images"
    make(folder, out, part_size=1)
    shutil.rmtree(out / "parts")
    (folder / "b.txt").write_text("another b")
    made_again.clear()
    make(folder, out, part_size=1, update=True)
    assert made_again == [0, 1, 2]


@dataclass(frozen=True, kw_only=True)
class Stopping(ImageFolder):
    """Fails at the last image once."""

    flag: str = field(default="", repr=False)

    def read(self, part):
        for item in super().read(part):
            if item.key == "c.png" and os.path.exists(self.flag):
                raise OSError("stopped")
            yield item


def test_only_parts_whose_files_have_changed_are_made_again(folder, tmp_path_factory, monkeypatch):
    monkeypatch.setattr("micro_diffusion.data.sources.listed_files.PART", 1)
    out = tmp_path_factory.mktemp("out") / "images"
    flag = out.parent / "flag"
    flag.touch()
    source = Stopping(path=str(folder), flag=str(flag))
    options = {"engine": Processes(count=1), "preparation": Preparation(), "part_size": 1}
    with pytest.raises(OSError, match="stopped"):
        convert(source=source, out=out, **options)
    flag.unlink()
    (folder / "b.txt").write_text("another b")
    done: list[int] = []
    call = conversion.PartConversion.__call__

    def noted(work: conversion.PartConversion, task: conversion.Task) -> int:
        done.append(task.number)
        return call(work, task)

    monkeypatch.setattr(conversion.PartConversion, "__call__", noted)
    convert(source=source, out=out, **options)
    assert done == [1, 2]
    assert captions(out) == ["a a", "another b", "a c"]


def test_a_source_that_says_nothing_of_its_files_has_the_same_fingerprint_always():
    class Drawn:
        pass

    parts = [[range(3), object()]]
    first, second = (Fingerprint.of(Drawn(), parts) for _ in range(2))  # pyright: ignore[reportArgumentType]
    assert first.digest == second.digest != Fingerprint.of(Drawn(), [[range(4)]]).digest  # pyright: ignore[reportArgumentType]
