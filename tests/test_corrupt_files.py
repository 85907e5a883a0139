"""Ninety damaged files: each ends in one sentence, or is counted and left out; none in a traceback or in silence.

Fourteen kinds of files, each damaged in six ways that follow from its name; the fifteenth, checkpoints of Composer, are
damaged in training/test_train.py, where there are some.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch

from micro_diffusion import cli
from micro_diffusion.autoencoder.identity import IdentityAutoencoder
from micro_diffusion.autoencoder.kl import KLAutoencoder
from micro_diffusion.checkpoint import initialise_from, write_config
from micro_diffusion.data.prepare.convert import convert
from micro_diffusion.data.prepare.engine import Processes
from micro_diffusion.data.prepare.precompute import precompute
from micro_diffusion.data.prepare.preparation import Preparation
from micro_diffusion.data.sources.image_folder import ImageFolder
from micro_diffusion.data.sources.shapes import Shapes
from micro_diffusion.data.stream.loader import build_loader
from micro_diffusion.text.tiny import TinyTextEncoder
from tests.damage import WAYS, damaged, png, says_one_sentence
from tests.data.stream.test_loader import make_latents
from tests.run_folder import CONFIG, make_run, random_backbone
from tests.test_released_weights import small_release

ROW = {"file_name": "a.png", "caption": "a cat"}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("file", ["index.json", "metadata.json", "shard.00000.mds"])
def test_the_loader(tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, way: str):
    folder = make_latents(tmp_path / "latents")
    (folder / file).write_bytes(damaged(folder / file, way))

    def use() -> None:
        list(build_loader(path=str(folder), resolution=8, batch_size=8, shuffle=False))

    assert str(folder) in says_one_sentence(capsys, use)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose autoencoder is a file too."""
    monkeypatch.chdir(tmp_path)
    run = make_run(tmp_path / "run")
    KLAutoencoder(channels=3, downsampling=2, width=4).save(run / "autoencoder")
    autoencoder = {"_target_": "micro_diffusion.autoencoder.kl.KLAutoencoder.load", "path": str(run / "autoencoder")}
    write_config(run, {**CONFIG, "autoencoder": autoencoder})
    return run


def test_the_run_is_good(run: Path):
    assert cli.main(["generate", str(run), "a cat", "--resolution", "32", "--out", "a.png"]) == 0


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("file", ["ema.safetensors", "config.yaml", "autoencoder/model.safetensors"])
def test_generate(run: Path, capsys: pytest.CaptureFixture[str], file: str, way: str):
    (run / file).write_bytes(damaged(run / file, way))
    command = ["generate", str(run), "a cat", "--resolution", "32", "--out", "a.png"]
    error = says_one_sentence(capsys, lambda: cli.main(command))
    assert str(run) in error
    assert not Path("a.png").exists()


@pytest.mark.parametrize("way", WAYS)
def test_init_from(run: Path, capsys: pytest.CaptureFixture[str], way: str):
    path = run / "ema.safetensors"
    path.write_bytes(damaged(path, way))
    assert str(path) in says_one_sentence(capsys, lambda: initialise_from(random_backbone(1), run))


@pytest.mark.parametrize("way", WAYS)
def test_the_importer(tmp_path: Path, capsys: pytest.CaptureFixture[str], way: str):
    path = tmp_path / "released.pt"
    torch.save(small_release()[1], path)
    path.write_bytes(damaged(path, way))
    command = ["import-microdit", str(path), str(tmp_path / "run")]
    assert str(path) in says_one_sentence(capsys, lambda: cli.main(command))
    assert not (tmp_path / "run").exists()


def test_convert(tmp_path: Path):
    """Damaged images are counted and left out; the whole one stays."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in [*WAYS, "whole"]:
        image = folder / f"{name}.png"
        image.write_bytes(png())
        image.write_bytes(damaged(image, name) if name != "whole" else png())
        image.with_suffix(".txt").write_text(f"an image, {name}")
    source = ImageFolder(path=str(folder))
    convert(source=source, out=tmp_path / "out", preparation=Preparation(), engine=Processes(count=1))
    record = json.loads((tmp_path / "out" / "metadata.json").read_text())
    assert record["samples"] == 1 and record["rejected"] == {"unreadable image": len(WAYS)}
    lines = (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()
    assert {json.loads(line)["key"] for line in lines} == {f"{way}.png" for way in WAYS}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["metadata.jsonl", "captions.csv"])
def test_lists_of_captions(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, way: str):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.png").write_bytes(png())
    rows = ["file_name,caption", *["a.png,a cat"] * 9] if name.endswith("csv") else [json.dumps(ROW)] * 9
    (folder / name).write_text("\n".join(rows))
    (folder / name).write_bytes(damaged(folder / name, way))
    assert str(folder) in says_one_sentence(capsys, lambda: ImageFolder(path=str(folder)))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images") / "images"
    convert(
        source=Shapes(seed=0, count=3, resolution=16),
        out=folder,
        preparation=Preparation(),
        engine=Processes(count=1),
    )
    return folder


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("file", ["index.json", "metadata.json", "shard"])
def test_precompute(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, way: str):
    folder = shutil.copytree(images, tmp_path / "images")
    path = folder / file if file != "shard" else next(folder.rglob("*.mds"))
    path.write_bytes(damaged(path, way))

    def use() -> None:
        precompute(
            images=folder,
            out=tmp_path / "latents",
            resolutions=[16],
            autoencoder=IdentityAutoencoder(std=0.5),
            text_encoder=TinyTextEncoder(dim=6, max_length=4),
            workers=0,
        )

    assert str(folder) in says_one_sentence(capsys, use)
    assert not (tmp_path / "latents").exists()


def test_the_bytes_of_every_tensor_count(run: Path, capsys: pytest.CaptureFixture[str]):
    """A single bit in the weights, which no format notices."""
    path = run / "ema.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    assert "another digest" in says_one_sentence(capsys, lambda: initialise_from(random_backbone(1), run))
