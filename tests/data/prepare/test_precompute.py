"""MDS images to MDS latents, with encoders whose results are known."""

import io
import json
import os
import shutil
import signal
import zlib
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image
from streaming import LocalDataset, MDSWriter

from micro_diffusion.autoencoder.autoencoder import unit_noise
from micro_diffusion.autoencoder.ldm_vae import LdmVAE
from micro_diffusion.condition import Condition
from micro_diffusion.data.format.metadata import LatentMetadata
from micro_diffusion.data.image.crops import AspectRatioBucket, CentreSquare, RandomSquare
from micro_diffusion.data.image.transforms import normalise
from micro_diffusion.data.prepare.convert import convert
from micro_diffusion.data.prepare.engine import Processes
from micro_diffusion.data.prepare.precompute import precompute
from micro_diffusion.data.prepare.preparation import COLUMNS, Preparation
from micro_diffusion.data.sources.image_folder import ImageFolder
from micro_diffusion.data.sources.shapes import Shapes

COUNT = 21
PROVENANCE = {"path": "somewhere", "subfolder": None, "digest": "a1", "dtype": "float32", "scaling_factor": 0.5}


class Averaging:
    """Latents are averages of 2 × 2 pixels, with noise of std 0.1 when sampled."""

    name, channels, downsampling = "averaging", 3, 2
    scale = 1.0

    def __init__(self):
        self.provenance = dict(PROVENANCE)

    def encode(self, images, *, generator=None, sample=True):
        means = torch.nn.functional.avg_pool2d(images, 2) * self.scale
        return means + 0.1 * unit_noise(means, generator) if sample else means

    def decode(self, latents):
        raise NotImplementedError

    def to(self, device):
        self.device = device


class Counting:
    """A caption's rows are the checksums of its words; counts the captions that it encodes."""

    name, dim, max_length = "counting", 2, 24

    def __init__(self):
        self.provenance = {"max_length": self.max_length}
        self.encoded = []

    def to(self, device):
        self.device = device

    def encode(self, captions):
        self.encoded += captions
        tokens = torch.zeros(len(captions), self.max_length, self.dim)
        mask = torch.zeros(len(captions), self.max_length, dtype=torch.bool)
        for row, caption in enumerate(captions):
            words = caption.split()
            tokens[row, : len(words)] = torch.tensor([zlib.crc32(word.encode()) % 1000 for word in words])[:, None]
            mask[row, : len(words)] = True
        return Condition(tokens, mask)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "images"
    convert(
        source=Shapes(seed=0, count=COUNT, resolution=16), out=out, preparation=Preparation(), engine=Processes(count=1)
    )
    return out


def row(image, caption, number, width, height, further=()):
    texts = {"caption": caption, "further_captions": list(further), "key": str(number)}
    return {"image": image, **texts, "width": width, "height": height}


def run(images, out, **changes):
    options = {
        "resolutions": [16, 8],
        "autoencoder": Averaging(),
        "text_encoder": Counting(),
        "batch_size": 4,
        "sample": False,
        **changes,
    }
    precompute(images=images, out=out, **options)
    dataset = LocalDataset(str(out))
    return [dataset[i] for i in range(len(dataset))]


def test_every_image_is_encoded_at_every_resolution(images, tmp_path):
    found = run(images, tmp_path / "out")
    source = LocalDataset(str(images))
    assert [row["key"] for row in found] == [source[i]["key"] for i in range(COUNT)]
    for i in (0, 3, COUNT - 1):
        some_image = normalise(torch.from_numpy(np.array(Image.open(io.BytesIO(source[i]["image"])))).permute(2, 0, 1))
        expected = torch.nn.functional.avg_pool2d(some_image[None], 2)[0]
        assert found[i]["latents_16"].dtype == np.float16
        assert np.abs(found[i]["latents_16"] - expected.numpy()).max() < 1e-3
        assert found[i]["latents_8"].shape == (3, 4, 4)
        halved = torch.nn.functional.avg_pool2d(expected[None], 2)[0]
        assert np.abs(found[i]["latents_8"] - halved.numpy()).mean() < 0.1
    assert [row["caption"] for row in found] == [source[i]["caption"] for i in range(COUNT)]


def test_captions_keep_their_features_and_length(images, tmp_path):
    encoder = Counting()
    found = run(images, tmp_path / "out", text_encoder=encoder, batch_size=COUNT)
    for row in found:
        words = row["caption"].split()
        assert row["caption_length"] == len(words)
        assert row["caption_tokens"][: len(words), 0].tolist() == [zlib.crc32(word.encode()) % 1000 for word in words]
        assert not row["caption_tokens"][len(words) :].any()
    assert len(encoder.encoded) == len({row["caption"] for row in found})


def test_the_record_says_what_the_folder_holds(images, tmp_path):
    found = run(images, tmp_path / "out")
    metadata = LatentMetadata.read(tmp_path / "out")
    assert (metadata.samples, metadata.resolutions) == (COUNT, [8, 16])
    assert (metadata.autoencoder, metadata.channels, metadata.downsampling) == ("averaging", 3, 2)
    assert (metadata.text_encoder, metadata.caption_dim, metadata.caption_length) == ("counting", 2, 24)
    for resolution in (8, 16):
        values = np.stack([row[f"latents_{resolution}"] for row in found]).astype(np.float64)
        assert metadata.latent_std[str(resolution)] == pytest.approx(values.std(), rel=1e-3)


def test_draws_follow_from_the_seed(images, tmp_path):
    first, again, other = (run(images, tmp_path / str(i), sample=True, seed=s) for i, s in enumerate((0, 0, 1)))
    assert all(np.array_equal(a["latents_8"], b["latents_8"]) for a, b in zip(first, again, strict=True))
    assert all((a["latents_8"] != b["latents_8"]).any() for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize(("device", "gpus", "chosen"), [(None, 1, "cuda"), (None, 0, "cpu"), ("cpu", 1, "cpu")])
def test_encoders_work_on_the_gpu_where_there_is_one(images, tmp_path, monkeypatch, caplog, device, gpus, chosen):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda place: f"GPU of {place}")
    encoders = {"autoencoder": Averaging(), "text_encoder": Counting()}
    with caplog.at_level("INFO"):
        run(images, tmp_path / "out", device=device, **encoders)
    assert {encoder.device for encoder in encoders.values()} == {torch.device(chosen)}
    assert f"averaging and counting encode on {'GPU of cuda' if chosen == 'cuda' else 'the CPU'}" in caplog.text


def test_the_same_latents_are_left_alone_and_others_refused(images, tmp_path):
    run(images, tmp_path / "out")
    encoder = Counting()
    run(images, tmp_path / "out", text_encoder=encoder)
    assert encoder.encoded == []
    with pytest.raises(FileExistsError, match=r"other settings \(resolutions \[8, 16\], not 8; latent_sizes\.16"):
        run(images, tmp_path / "out", resolutions=[8])


def test_latents_of_images_that_were_made_anew_are_refused(tmp_path):
    """With the same settings, from a source whose captions were corrected."""
    files, images, out = tmp_path / "files", tmp_path / "images", tmp_path / "out"
    files.mkdir()
    Image.new("RGB", (16, 16)).save(files / "a.png")

    def make(caption: str) -> None:
        (files / "a.txt").write_text(caption)
        shutil.rmtree(images, ignore_errors=True)
        convert(source=ImageFolder(path=str(files)), out=images, preparation=Preparation(), engine=Processes(count=1))

    make("wrong")
    run(images, out)
    make("right")
    with pytest.raises(FileExistsError, match=r"has changed since \(1 changed: shard\..*\); set update=true"):
        run(images, out)
    make("wrong")
    assert run(images, out)[0]["caption"] == "wrong"
    record = json.loads((out / "metadata.json").read_text())
    del record["recipe"]["images_index"]  # as an earlier version wrote it
    (out / "metadata.json").write_text(json.dumps(record))
    encoder = Counting()
    run(images, out, text_encoder=encoder)
    assert encoder.encoded == []


def test_an_image_that_cannot_be_decoded_costs_no_other(tmp_path):
    good = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(good, "png")
    with MDSWriter(out=str(tmp_path / "images"), columns=COLUMNS, hashes=["xxh64"]) as writer:
        for i in range(9):
            content = b"not an image" if i == 5 else good.getvalue()
            writer.write(row(content, "red", i, 16, 16))
    found = run(tmp_path / "images", tmp_path / "out")
    assert [row["key"] for row in found] == [str(i) for i in range(9) if i != 5]
    listed = (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in listed] == [{"key": "5", "reason": "unreadable image"}]


def test_changed_images_are_noticed_before_their_rows_are_understood(images, tmp_path):
    changed = shutil.copytree(images, tmp_path / "images")
    (shard,) = changed.glob("*.mds")
    shard.write_bytes(shard.read_bytes().replace(b"[]", b"[,", 1))  # the list of further captions
    with pytest.raises(ValueError, match=f"the bytes of {shard} have changed since it was written; make"):
        run(changed, tmp_path / "out")


@dataclass(frozen=True, kw_only=True)
class Deadly(CentreSquare):
    """Kills the process that cuts the image out."""

    def place(self, key):
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True, kw_only=True)
class Faulty(CentreSquare):
    """Has a fault of its own."""

    def place(self, key):
        raise RuntimeError("the shapes do not fit")


def test_a_killed_worker_is_an_error_in_words_of_this_command(images, tmp_path):
    with pytest.raises(ChildProcessError, match="decodes images was killed.*same command again, with fewer"):
        run(images, tmp_path / "out", crop=Deadly(), workers=1)
    with pytest.raises(RuntimeError, match="RuntimeError: the shapes do not fit"):
        run(images, tmp_path / "out", crop=Faulty(), workers=1)


@pytest.mark.parametrize("further", [("b", "c"), ()])
def test_unequal_numbers_of_captions_are_refused(tmp_path, further):
    """Or images would get each other's."""
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "png")
    with MDSWriter(out=str(tmp_path / "images"), columns=COLUMNS, hashes=["xxh64"]) as writer:
        for i, others in enumerate((("b",), ("b",), further)):
            writer.write(row(buffer.getvalue(), "a", i, 16, 16, others))
    with pytest.raises(ValueError, match=f"image 2 has {1 + len(further)} captions, others 2; convert again, with"):
        run(tmp_path / "images", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_enlarged_images_are_counted(images, tmp_path, caplog):
    with caplog.at_level("WARNING"):
        run(images, tmp_path / "out", resolutions=[8, 32])
    assert f"{COUNT} images were smaller than 32 px and have been enlarged" in caplog.text
    assert "than 8 px" not in caplog.text


def test_bad_input_says_what_to_do(images, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no data folder .*; make it with: python scripts/convert\.py"):
        run(tmp_path / "none", tmp_path / "out")
    with pytest.raises(ValueError, match="images is the address s3://data/images; copy it to a local folder first"):
        run("s3://data/images", tmp_path / "out")
    untrained = LdmVAE(downsampling=4, multipliers=(1, 1, 1), encoder_attention=(), decoder_attention=())
    with pytest.raises(ValueError, match="autoencoder ldm-vae-f4-c4-.* is one to train; set autoencoder=bundled and"):
        run(images, tmp_path / "out", autoencoder=untrained)
    with pytest.raises(ValueError, match="resolution 15 cannot be encoded; set resolutions to multiples of 2"):
        run(images, tmp_path / "out", resolutions=[15])
    with pytest.raises(ValueError, match="device is cuda:9, but torch finds [0-9] GPUs; set it to one that"):
        run(images, tmp_path / "out", device="cuda:9")
    with pytest.raises(ValueError, match="device is 'gpu', which torch does not know; set it to cuda"):
        run(images, tmp_path / "out", device="gpu")
    with pytest.raises(ValueError, match="resolutions is empty"):
        run(images, tmp_path / "out", resolutions=[])
    overflowing = Averaging()
    overflowing.scale = 1e6
    with pytest.raises(
        ValueError, match="by the autoencoder averaging are not finite in float16, first for 'shapes-0-0'"
    ):
        run(images, tmp_path / "out", autoencoder=overflowing)
    assert not (tmp_path / "out").exists()


def test_metadata_are_compared_with_the_network(images, tmp_path):
    run(images, tmp_path / "out")
    metadata = LatentMetadata.read(tmp_path / "out")
    metadata.check(in_channels=3, caption_dim=2)
    with pytest.raises(ValueError, match=r"set backbone\.in_channels=3"):
        metadata.check(in_channels=4, caption_dim=2)
    with pytest.raises(ValueError, match=r"set backbone\.caption_dim=2"):
        metadata.check(in_channels=3, caption_dim=768)
    with pytest.raises(ValueError, match="latents at 8, 16 px, not at 32"):
        metadata.latent_size(32)
    with pytest.raises(ValueError, match="holds no latents"):
        LatentMetadata.read(images)


def test_buckets_share_the_images_and_store_rectangles(tmp_path):
    sizes = [(32, 32), (48, 24), (24, 48), (50, 26), (33, 30)]
    with MDSWriter(out=str(tmp_path / "images"), columns=COLUMNS, hashes=["xxh64"]) as writer:
        for i, (width, height) in enumerate(sizes):
            buffer = io.BytesIO()
            Image.new("RGB", (width, height), "red").save(buffer, "png")
            writer.write(row(buffer.getvalue(), "red", i, width, height))
    found = {}
    for ratio in ("1:1", "2:1", "1:2"):
        cut = AspectRatioBucket(ratio=ratio, among=("1:1", "2:1", "1:2"), multiple=4)
        rows = run(tmp_path / "images", tmp_path / ratio, crop=cut)
        found[ratio] = [row["key"] for row in rows], rows[0]["latents_16"].shape
        metadata = LatentMetadata.read(tmp_path / ratio)
        assert metadata.samples == len(rows)
        assert metadata.latent_sizes["16"] == list(rows[0]["latents_16"].shape[1:])
        assert json.loads((tmp_path / ratio / "metadata.json").read_text())["other_shapes"] == 5 - len(rows)
    assert found == {
        "1:1": (["0", "4"], (3, 8, 8)),
        "2:1": (["1", "3"], (3, 6, 12)),
        "1:2": (["2"], (3, 12, 6)),
    }
    none = AspectRatioBucket(ratio="4:1", among=("1:1", "2:1", "1:2", "4:1"), multiple=4)
    with pytest.raises(ValueError, match=r"no image can be used \(another shape: 5\); .* or set another crop$"):
        run(tmp_path / "images", tmp_path / "none", crop=none)


def test_a_random_square_is_the_same_at_all_resolutions(tmp_path):
    ramp = Image.fromarray(np.tile(np.arange(0, 240, 2, dtype=np.uint8), (40, 1))).convert("RGB")
    buffer = io.BytesIO()
    ramp.save(buffer, "png")
    with MDSWriter(out=str(tmp_path / "images"), columns=COLUMNS, hashes=["xxh64"]) as writer:
        for i in range(8):
            writer.write(row(buffer.getvalue(), "ramp", i, 120, 40))
    rows = run(tmp_path / "images", tmp_path / "out", crop=RandomSquare(seed=0))
    means = [(row["latents_8"].mean(), row["latents_16"].mean()) for row in rows]
    assert all(abs(small - large) < 0.02 for small, large in means)
    assert np.std([large for _, large in means]) > 0.1


def test_another_encoder_is_refused_whatever_its_name(images, tmp_path):
    run(images, tmp_path / "out")
    metadata = LatentMetadata.read(tmp_path / "out")
    metadata.check_encoder("autoencoder", PROVENANCE)
    metadata.check_encoder("autoencoder", {**PROVENANCE, "path": "a/copy", "dtype": "bfloat16"})  # the same weights
    for change, named in (
        ({"digest": "b2"}, "digest a1 instead of b2"),
        ({"digest": "b2", "path": "a/copy"}, "path somewhere instead of a/copy, digest a1 instead of b2"),
        ({"scaling_factor": 0.25}, r"scaling_factor 0\.5 instead of 0\.25"),
    ):
        with pytest.raises(ValueError, match=f"another autoencoder made the data than the config has: {named}; set"):
            metadata.check_encoder("autoencoder", {**PROVENANCE, **change})
    with pytest.raises(ValueError, match="max_length 24 instead of 77"):
        metadata.check_encoder("text_encoder", {"max_length": 77})


def test_a_config_that_names_the_very_encoder_is_believed(images, tmp_path):
    run(images, tmp_path / "out")
    metadata = LatentMetadata.read(tmp_path / "out")
    named = {"_target_": "Averaging", "path": "somewhere", "channels": 3}
    assert metadata.states_encoder("autoencoder", named)
    assert metadata.states_encoder("autoencoder", {**named, "scaling_factor": 0.5})
    for change in ({"path": "elsewhere"}, {"subfolder": "vae"}, {"scaling_factor": 0.25}, {"scaling_factor": None}):
        assert not metadata.states_encoder("autoencoder", {**named, **change})
    assert not metadata.states_encoder("text_encoder", {"max_length": 24})  # nothing says where it is from
