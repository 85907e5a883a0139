"""What is said of a data folder is what was put into it."""

import numpy as np
import pytest
import torch
from streaming import MDSWriter

from micro_diffusion.data.convert import convert
from micro_diffusion.data.description import DataFolder
from micro_diffusion.data.engine import Processes
from micro_diffusion.data.preparation import Preparation
from micro_diffusion.data.sources.shapes import Shapes
from tests.data.test_loader import COUNT, make_latents


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
    pictures, captions = folder.pictures(4, 16)
    assert pictures.shape == (4, 3, 16, 16) and pictures.dtype == torch.uint8
    assert len(captions) == 4


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no data folder"):
        DataFolder(tmp_path / "nothing", count=1)
    with MDSWriter(out=str(tmp_path / "other"), columns={"sound": "bytes"}) as writer:
        writer.write({"sound": b"a"})
    with pytest.raises(ValueError, match="holds sound, neither images nor latents"):
        DataFolder(tmp_path / "other", count=1)
