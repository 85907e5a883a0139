"""What is said of a data folder is what was put into it."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from streaming import MDSWriter

from micro_diffusion.data.prepare.convert import convert
from micro_diffusion.data.prepare.description import DataFolder
from micro_diffusion.data.prepare.engine import Processes
from micro_diffusion.data.prepare.preparation import COLUMNS, Preparation
from micro_diffusion.data.sources.shapes import Shapes
from tests.data.stream.test_loader import COUNT, make_latents


def test_latents_have_the_moments_of_their_entries(tmp_path):
    folder = DataFolder(make_latents(tmp_path / "latents"), count=1000)
    found = folder.describe()
    assert (found["holds"], found["samples"], found["looked_at"]) == ("latents", COUNT, COUNT)
    values = np.arange(COUNT)  # sample i is full of i
    for resolution in ("8", "16"):
        latents = found["latents"][resolution]
        assert latents["mean"] == pytest.approx([values.mean()] * 3)
        assert latents["std"] == pytest.approx([values.std()] * 3)
        assert latents["sigma_data"] == pytest.approx(values.std())
    assert found["caption_tokens"]["mean"] == pytest.approx(3.0)  # i % 5 + 1
    assert found["captions_that_fill_all_tokens"] == 0
    sizes = found["bytes_per_sample"]
    assert (sizes["latents_8"], sizes["latents_16"], sizes["caption_tokens"]) == (96, 384, 24)


def test_sigma_data_counts_the_difference_between_channels(tmp_path):
    make_latents(tmp_path / "latents", count=2)
    folder = DataFolder(tmp_path / "latents", count=2)
    batch = folder.metadata.row_format.batch(folder._read([0, 1]), 8)["latents"]
    assert folder.describe()["latents"]["8"]["sigma_data"] == pytest.approx(batch.double().std(correction=0).item())


def test_images_have_their_sizes_and_captions(tmp_path):
    source = Shapes(seed=0, count=9, resolution=48)
    convert(source=source, out=tmp_path / "images", preparation=Preparation(), engine=Processes(count=1))
    folder = DataFolder(tmp_path / "images", count=5)
    found = folder.describe()
    assert (found["holds"], found["samples"], found["looked_at"]) == ("images", 9, 5)
    assert found["shorter_side_histogram"] == {"32-63": 5}
    assert found["aspect_histogram"] == {"1.0": 5}
    assert len(found["captions"]) == 5 and all("background" in caption for caption in found["captions"])
    images, captions = folder.images(4, 16)
    assert images.shape == (4, 3, 16, 16) and images.dtype == torch.uint8
    assert len(captions) == 4


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no data folder"):
        DataFolder(tmp_path / "nothing", count=1)
    with MDSWriter(out=str(tmp_path / "other"), columns={"sound": "bytes"}) as writer:
        writer.write({"sound": b"a"})
    with pytest.raises(ValueError, match="holds sound, neither images nor latents"):
        DataFolder(tmp_path / "other", count=1)


def write_images(folder, rows, *, without=()):
    """MDS images, with shards that were written one after the other by different versions."""
    columns = {name: encoding for name, encoding in COLUMNS.items() if name not in without}
    with MDSWriter(out=str(folder / "written"), columns=columns) as writer:
        for row in rows:
            writer.write({name: row[name] for name in columns})
    index = folder / "index.json"
    shards = json.loads(index.read_text())["shards"] if index.exists() else []
    (shard,) = json.loads((folder / "written" / "index.json").read_text())["shards"]
    shard["raw_data"]["basename"] = f"{len(shards)}.mds"
    (folder / "written" / "shard.00000.mds").rename(folder / f"{len(shards)}.mds")
    (folder / "written" / "index.json").unlink()
    index.write_text(json.dumps({"version": 2, "shards": [*shards, shard]}))


def image(key, *further):
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10), "red").save(buffer, "png")
    texts = {"caption": f"a {key}", "further_captions": list(further), "key": key}
    return {"image": buffer.getvalue(), **texts, "width": 20, "height": 10}


def test_shards_of_different_versions_are_read_by_their_own_columns(tmp_path):
    write_images(tmp_path, [image("one"), image("two")])
    write_images(tmp_path, [image("three")], without=["further_captions"])
    folder = DataFolder(tmp_path, count=3)
    found = folder.describe()
    assert (found["samples"], found["captions_per_image"]) == (3, 1)
    assert found["captions"] == ["a one", "a two", "a three"]
    assert found["aspect_histogram"] == {"2.0": 3}
    assert len(folder.images(3, 8)[0]) == 3
    write_images(tmp_path, [image("four", "a fourth")])
    with pytest.raises(ValueError, match="have 1 or 2 captions; make the data folder again, with as many for each"):
        DataFolder(tmp_path, count=4).describe()
    write_images(tmp_path, [image("five")], without=["width"])
    with pytest.raises(ValueError, match=r"3\.mds lacks the column width; make the data folder again"):
        DataFolder(tmp_path, count=5)


def test_an_image_that_cannot_be_shown_is_named(tmp_path):
    write_images(tmp_path, [image("one"), {**image("two"), "image": b"no image"}])
    with pytest.raises(ValueError, match=f"image two of {tmp_path}: no readable image .*; make the data folder"):
        DataFolder(tmp_path, count=2).images(2, 8)
