"""Sixty damaged files: each ends in one sentence, or is counted and left out; none in a traceback or in silence.

Ten kinds of files, each damaged in six ways that follow from its name.
"""

import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from micro_diffusion import cli
from micro_diffusion.autoencoder.kl import KLAutoencoder
from micro_diffusion.checkpoint import initialise_from, write_config
from micro_diffusion.data.convert import convert
from micro_diffusion.data.engine import Processes
from micro_diffusion.data.loader import build_loader
from micro_diffusion.data.preparation import Preparation
from micro_diffusion.data.sources.image_folder import ImageFolder
from micro_diffusion.torch_archive import check_archive
from micro_diffusion.training.errors import one_sentence_errors
from tests.data.test_loader import make_latents
from tests.run_folder import CONFIG, make_run, random_backbone
from tests.test_released_weights import small_release

WAYS = ["empty", "zeros", "truncated", "flipped", "other", "huge"]
TEXT = (".json", ".yaml")


def png(side: int = 24) -> bytes:
    generator = random.Random(0)
    buffer = io.BytesIO()
    Image.frombytes("RGB", (side, side), generator.randbytes(3 * side * side)).save(buffer, "png")
    return buffer.getvalue()


def damaged(path: Path, way: str) -> bytes:
    """The content of a file after damage that follows from the file's name."""
    content, generator = path.read_bytes(), random.Random(f"{path.name} {way}")
    if way == "empty":
        return b""
    if way == "zeros":
        return bytes(len(content))
    if way == "truncated":
        return content[: generator.randrange(1, len(content) - 1)]
    if way == "flipped":
        return flipped(content, generator, bits=(7,) if path.suffix in TEXT else range(8))
    if way == "other":
        return b"%PDF-1.7 something else" if path.suffix == ".png" else png()
    return HUGE[path.suffix](content)


def flipped(content: bytes, generator: random.Random, bits) -> bytes:
    """Three bits of the second half turned over; in text the highest, so that no other valid text comes of it."""
    changed = bytearray(content)
    for place in generator.sample(range(len(content) // 2, len(content) - 64), 3):
        changed[place] ^= 1 << generator.choice(list(bits))
    return bytes(changed)


def huge_png(content: bytes) -> bytes:
    """A picture of 60,000 by 60,000 pixels, says its header."""
    header = b"IHDR" + struct.pack(">II", 60_000, 60_000) + content[24:29]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


def huge_archive(content: bytes) -> bytes:
    """A zip bomb: sixty-four megabytes of zeros in some kilobytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2**26))
    return buffer.getvalue()


def huge_json(content: bytes) -> bytes:
    """Numbers beyond all measure."""
    return content.replace(b'"samples": 50', b'"samples": 5' + b"0" * 30).replace(b'"bytes": ', b'"bytes": 9999999')


HUGE: dict[str, Callable[[bytes], bytes]] = {
    ".png": huge_png,
    ".json": huge_json,
    ".mds": lambda content: content * 3,
    ".safetensors": lambda content: struct.pack("<Q", 2**62) + content[8:],
    ".yaml": lambda content: content.replace(b"dim: 32\n", b"dim: 1099511627776\n"),
    ".pt": huge_archive,
}


def says_one_sentence(capsys: pytest.CaptureFixture[str], use: Callable[[], object]) -> str:
    """What stderr holds after `use`, which must fail as a command does."""

    def command() -> None:
        with one_sentence_errors():
            raise SystemExit(use())

    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        command()
    lines = capsys.readouterr().err.splitlines()
    assert stop.value.code in (1, 2), "the damaged file was accepted"
    assert len(lines) <= 2 and "Traceback" not in lines[0]
    return lines[0]


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
def test_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str], way: str):
    path = tmp_path / "latest-rank0.pt"
    torch.save({"state": {"model": torch.randn(64, 64)}}, path)
    check_archive(path)
    path.write_bytes(damaged(path, way))
    assert str(path) in says_one_sentence(capsys, lambda: check_archive(path))


@pytest.mark.parametrize("way", WAYS)
def test_the_importer(tmp_path: Path, capsys: pytest.CaptureFixture[str], way: str):
    path = tmp_path / "released.pt"
    torch.save(small_release()[1], path)
    path.write_bytes(damaged(path, way))
    command = ["import-microdit", str(path), str(tmp_path / "run")]
    assert str(path) in says_one_sentence(capsys, lambda: cli.main(command))
    assert not (tmp_path / "run").exists()


def test_convert(tmp_path: Path):
    """Damaged pictures are counted and left out; the whole one stays."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in [*WAYS, "whole"]:
        picture = folder / f"{name}.png"
        picture.write_bytes(png())
        picture.write_bytes(damaged(picture, name) if name != "whole" else png())
        picture.with_suffix(".txt").write_text(f"a picture, {name}")
    source = ImageFolder(path=str(folder))
    convert(source=source, out=tmp_path / "out", preparation=Preparation(), engine=Processes(count=1))
    record = json.loads((tmp_path / "out" / "metadata.json").read_text())
    assert record["samples"] == 1 and record["rejected"] == {"unreadable picture": len(WAYS)}
    lines = (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()
    assert {json.loads(line)["key"] for line in lines} == {f"{way}.png" for way in WAYS}


def test_the_bytes_of_every_tensor_count(run: Path, capsys: pytest.CaptureFixture[str]):
    """A single bit in the weights, which no format notices."""
    path = run / "ema.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    assert "another digest" in says_one_sentence(capsys, lambda: initialise_from(random_backbone(1), run))
