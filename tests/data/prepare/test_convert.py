"""Sources to MDS images: what is kept, what is left out, and that nothing is overwritten."""

import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image
from streaming import LocalDataset

from micro_diffusion.data.prepare.convert import _tasks, convert
from micro_diffusion.data.prepare.engine import Processes
from micro_diffusion.data.prepare.preparation import Preparation
from micro_diffusion.data.sources.image_folder import ImageFolder
from micro_diffusion.data.sources.shape_scenes import caption, render, scene
from micro_diffusion.data.sources.shapes import Shapes
from micro_diffusion.data.sources.source import CaptionedImage, Rejected


def rows(folder) -> list[dict]:
    dataset = LocalDataset(str(folder))
    return [dataset[i] for i in range(len(dataset))]


def encoded(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("processes", [1, 2])
def test_shapes_round_trip_whatever_the_number_of_processes(tmp_path, processes):
    convert(
        source=Shapes(seed=5, count=150, resolution=24),
        out=tmp_path / "images",
        preparation=Preparation(),
        engine=Processes(count=processes),
    )
    found = rows(tmp_path / "images")
    assert [row["key"] for row in found] == [f"shapes-5-{i}" for i in range(150)]
    assert [row["caption"] for row in found] == [caption(scene(5, i)) for i in range(150)]
    for i in (0, 149):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(found[i]["image"]))), render(scene(5, i), 24))
    assert {(row["width"], row["height"]) for row in found} == {(24, 24)}
    index = json.loads((tmp_path / "images" / "index.json").read_text())
    assert all(shard["raw_data"]["hashes"]["xxh64"] for shard in index["shards"])
    record = json.loads((tmp_path / "images" / "metadata.json").read_text())
    assert record["samples"] == 150
    assert record["recipe"]["source"]["name"] == "Shapes"


def test_bad_images_are_left_out_counted_and_listed(tmp_path, caplog):
    folder = tmp_path / "folder"
    folder.mkdir()
    whole = encoded(Image.effect_noise((64, 64), 80), "png")
    files = {"good": whole, "corrupt": b"no image", "cut": whole[: len(whole) // 2], "silent": whole, "tiny": None}
    for stem, content in files.items():
        (folder / f"{stem}.png").write_bytes(content or encoded(Image.new("RGB", (8, 20)), "png"))
        (folder / f"{stem}.txt").write_text(" \n" if stem == "silent" else f"  a {stem}\n image ")
    (folder / "mute.png").write_bytes(whole)
    for stem, text in (("marked", b"\xef\xbb\xbfa marked image"), ("latin", "caf\xe9".encode("latin-1"))):
        (folder / f"{stem}.png").write_bytes(whole)
        (folder / f"{stem}.txt").write_bytes(text)
    with caplog.at_level("INFO"):
        convert(
            source=ImageFolder(path=str(folder)),
            out=tmp_path / "out",
            preparation=Preparation(minimum_side=16),
            engine=Processes(count=1),
        )
    kept = {"good.png": "a good image", "marked.png": "a marked image"}
    assert {row["key"]: row["caption"] for row in rows(tmp_path / "out")} == kept
    listed = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert {item["key"]: item["reason"] for item in listed} == {
        "corrupt.png": "unreadable image",
        "latin.png": "caption is no valid Unicode",
        "cut.png": "unreadable image",
        "silent.png": "empty caption",
        "tiny.png": "shorter side below 16 px",
        "mute.png": "no caption",
    }
    counted = json.loads((tmp_path / "out" / "metadata.json").read_text())["rejected"]
    assert counted == dict(Counter(item["reason"] for item in listed))
    assert "left out 2: unreadable image" in caplog.text


def test_files_stay_as_they_are_unless_shrunk_or_turned():
    noise = Image.effect_noise((40, 30), 80).convert("RGB")
    jpeg, png, bmp = encoded(noise, "jpeg"), encoded(noise, "png"), encoded(noise, "bmp")
    keep = Preparation()
    assert keep.encode(jpeg) == (jpeg, (40, 30))
    assert keep.encode(png) == (png, (40, 30))
    stored, _ = keep.encode(bmp)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(stored))), np.asarray(noise))
    shrunk, size = Preparation(shorter_side=15).encode(jpeg)
    opened = Image.open(io.BytesIO(shrunk))
    assert (size, opened.size, opened.format) == ((20, 15), (20, 15), "JPEG")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned, size = keep.encode(encoded(noise, "jpeg", exif=exif))
    assert size == Image.open(io.BytesIO(turned)).size == (30, 40)


def test_splits_are_disjoint_complete_and_fixed():
    keys = [f"image {i}" for i in range(4000)]
    splits = {
        split: [key for key in keys if Preparation(split=split, eval_fraction=0.1).wants(key)]
        for split in ("all", "train", "eval")
    }
    assert splits["all"] == keys
    assert not set(splits["train"]) & set(splits["eval"])
    assert len(splits["train"]) + len(splits["eval"]) == 4000
    assert len(splits["eval"]) == pytest.approx(400, abs=60)
    assert Preparation(split="eval", eval_fraction=0.1).expected(4000) == 400
    wider = {key for key in keys if Preparation(split="eval", eval_fraction=0.2).wants(key)}
    assert set(splits["eval"]) < wider


def test_the_same_conversion_is_left_alone_and_another_refused(tmp_path):
    def run(**changes) -> None:
        source = Shapes(**{"seed": 0, "count": 4, "resolution": 8, **changes})
        convert(source=source, out=tmp_path / "out", preparation=Preparation(), engine=Processes(count=1))

    run()
    before = (tmp_path / "out" / "index.json").stat().st_mtime_ns
    run()
    assert (tmp_path / "out" / "index.json").stat().st_mtime_ns == before
    with pytest.raises(FileExistsError, match=r"other settings \(source\.seed 0, not 1\); remove it or set"):
        run(seed=1)


def test_what_an_earlier_version_has_completed_is_left_alone(tmp_path):
    """It called one caption an image "first", and the field of a text file null."""
    (tmp_path / "a.png").write_bytes(encoded(Image.new("RGB", (4, 4)), "png"))
    (tmp_path / "a.txt").write_text("a square")
    out = tmp_path / "out"

    def run(minimum_side: int = 1) -> None:
        preparation = Preparation(minimum_side=minimum_side)
        convert(source=ImageFolder(path=str(tmp_path)), out=out, preparation=preparation, engine=Processes(count=1))

    run()
    record = json.loads((out / "metadata.json").read_text())
    record["recipe"]["source"] |= {"captions": "first", "field": None}
    del record["recipe"]["preparation"]["minimum_bytes"]
    (out / "metadata.json").write_text(json.dumps(record))
    run()
    with pytest.raises(FileExistsError, match=r"\(preparation\.minimum_side 1, not 2\)"):
        run(minimum_side=2)


def test_a_foreign_folder_is_refused_and_an_empty_one_used(tmp_path):
    foreign, empty = tmp_path / "foreign", tmp_path / "empty"
    foreign.mkdir()
    empty.mkdir()
    (foreign / "thesis.txt").write_text("precious")
    source = Shapes(seed=0, count=2, resolution=8)
    with pytest.raises(FileExistsError, match="was not made by this command; remove it or set another out"):
        convert(source=source, out=foreign, preparation=Preparation(), engine=Processes(count=1))
    assert (foreign / "thesis.txt").read_text() == "precious"
    convert(source=source, out=empty, preparation=Preparation(), engine=Processes(count=1))
    assert len(rows(empty)) == 2


@dataclass(frozen=True, kw_only=True)
class Failing:
    """A source that fails after some images, or rejects them all."""

    fails: bool

    def __len__(self) -> int:
        return 3

    def parts(self) -> Sequence[int]:
        return [0]

    def read(self, part: int) -> Iterator[CaptionedImage | Rejected]:
        if self.fails:
            yield CaptionedImage(Image.new("RGB", (4, 4)), "an image", "0")
            raise OSError("the disk is gone")
        yield from (Rejected(str(i), "out of order") for i in range(3))


def test_an_interrupted_conversion_leaves_no_folder_and_is_begun_again(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(OSError, match="the disk is gone"):
        convert(source=Failing(fails=True), out=out, preparation=Preparation(), engine=Processes(count=1))
    assert not out.exists()
    convert(source=Shapes(seed=0, count=2, resolution=8), out=out, preparation=Preparation(), engine=Processes(count=1))
    assert len(rows(out)) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_source_without_a_usable_image_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"no image that can be used \(out of order: 3\)"):
        convert(source=Failing(fails=False), out=tmp_path / "out", preparation=Preparation(), engine=Processes(count=1))
    assert not (tmp_path / "out").exists()
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.png").write_bytes(encoded(Image.new("RGB", (4, 4)), "png"))
    for text in ("", "written later"):  # the same command, when the captions are there
        (images / "a.txt").write_text(text)
        with nullcontext() if text else pytest.raises(ValueError, match=r"\(empty caption: 1\)"):
            source = ImageFolder(path=str(images))
            convert(source=source, out=tmp_path / "out", preparation=Preparation(), engine=Processes(count=1))
    assert [row["caption"] for row in rows(tmp_path / "out")] == ["written later"]


@dataclass(frozen=True, kw_only=True)
class Uneven:
    """Its last image has a caption more than the others."""

    def __len__(self) -> int:
        return 4

    def parts(self) -> Sequence[int]:
        return range(4)

    def read(self, part: int) -> Iterator[CaptionedImage | Rejected]:
        yield CaptionedImage(Image.new("RGB", (4, 4)), "a", str(part), ("b", "c") if part == 3 else ("b",))


@pytest.mark.parametrize("part_size", [1, 4])
def test_unequal_numbers_of_captions_are_refused(tmp_path, part_size):
    options = {"preparation": Preparation(), "engine": Processes(count=1), "part_size": part_size}
    with pytest.raises(ValueError, match="gives image 2 2 captions, but 3 3; let it give as many for each"):
        convert(source=Uneven(), out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "test"}, "split is 'test'; set it to all, train or eval"),
        ({"minimum_side": 256, "shorter_side": 64}, "shorter_side 64 is below minimum_side 256"),
    ],
)
def test_bad_preparations_say_what_to_set(options, message):
    with pytest.raises(ValueError, match=message):
        Preparation(**options)


def test_captions_of_an_image_are_one_row_and_missing_ones_are_listed():
    item = CaptionedImage(Image.new("RGB", (6, 4)), " ", "k", ("two", "half \ud800", "three"))
    *listed, row = Preparation().rows(item)
    assert isinstance(row, dict)
    assert (row["key"], row["caption"], row["further_captions"]) == ("k", "two", ["two", "two", "three"])
    assert listed == [
        Rejected("k#1", "empty caption, replaced by another one of the image"),
        Rejected("k#3", "caption is no valid Unicode, replaced by another one of the image"),
    ]
    assert list(Preparation(minimum_side=5).rows(item)) == [Rejected("k", "shorter side below 5 px")]
    assert list(Preparation().rows(item._replace(further_captions=("", "")))) == [Rejected("k", "empty caption")]


def test_an_image_that_would_fill_the_memory_is_rejected():
    header = encoded(Image.new("L", (1, 1)), "png")
    size = (100_000).to_bytes(4, "big") * 2
    chunk = b"IHDR" + size + header[24:29]
    bomb = header[:12] + chunk + zlib.crc32(chunk).to_bytes(4, "big") + header[33:]
    assert Image.open(io.BytesIO(encoded(Image.new("L", (1, 1)), "png"))).size == (1, 1)
    assert list(Preparation().rows(CaptionedImage(bomb, "10 gigapixels", "k"))) == [Rejected("k", "unreadable image")]


@pytest.mark.parametrize("split", ["eval", "train"])
def test_a_split_without_images_says_which_share_takes_one(tmp_path, split):
    fraction = {"eval": 1e-6, "train": 1 - 1e-6}[split]
    source = Shapes(seed=0, count=20, resolution=8)
    options = {"source": source, "engine": Processes(count=1)}
    with pytest.raises(ValueError, match=f"none of 20 images is in the split {split} .* set preparation") as caught:
        convert(out=tmp_path / "a", preparation=Preparation(split=split, eval_fraction=fraction), **options)
    enough = float(re.findall(r"eval_fraction=([\d.]+)", str(caught.value))[1])
    convert(out=tmp_path / "b", preparation=Preparation(split=split, eval_fraction=enough), **options)
    assert len(rows(tmp_path / "b")) == 1


def test_archives_of_unknown_length_are_tasks_of_their_own():
    class Unknown(Shapes):
        def __len__(self) -> int:
            return 0

        def parts(self):
            return [range(0), range(1), range(2)]

    assert len(_tasks(Unknown(seed=0, count=1, resolution=8), 1)) == 3
