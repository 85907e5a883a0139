"""`micro-diffusion data describe`: numbers as text and JSON, and a contact sheet where the images are at hand."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from micro_diffusion import cli
from micro_diffusion.autoencoder.kl import KLAutoencoder
from micro_diffusion.cli.contact_sheet import contact_sheet
from micro_diffusion.data.prepare.convert import convert
from micro_diffusion.data.prepare.engine import Processes
from micro_diffusion.data.prepare.precompute import precompute
from micro_diffusion.data.prepare.preparation import Preparation
from micro_diffusion.data.sources.shapes import Shapes
from micro_diffusion.text.tiny import TinyTextEncoder
from tests.data.stream.test_loader import make_latents


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    convert(
        source=Shapes(seed=0, count=6, resolution=16),
        out=folder / "images",
        preparation=Preparation(),
        engine=Processes(count=1),
    )
    precompute(
        images=folder / "images",
        out=folder / "latents",
        resolutions=[16],
        autoencoder=KLAutoencoder.load("bundled:autoencoder"),
        text_encoder=TinyTextEncoder(dim=6, max_length=18),
    )
    return folder


@pytest.mark.parametrize("kind", ["images", "latents"])
def test_numbers_and_contact_sheet(data, kind, capsys):
    assert cli.main(["data", "describe", str(data / kind), "--samples", "4"]) == 0
    found = json.loads((data / f"{kind}.json").read_text())
    assert (found["holds"], found["samples"], found["looked_at"]) == (kind, 6, 4)
    assert Image.open(data / f"{kind}.png").width > 2 * 160
    printed = capsys.readouterr().out
    assert "samples: 6" in printed and found["captions"][0] in printed
    if kind == "latents":
        assert 0.3 < found["latents"]["16"]["sigma_data"] < 3


def test_a_long_caption_does_not_push_the_images_apart():
    shown = torch.zeros(1, 3, 160, 160, dtype=torch.uint8)
    assert contact_sheet(shown, ["a harbour at dusk " * 100]).height < 2 * 160


def test_without_the_autoencoder_there_are_still_numbers(tmp_path, capsys):
    make_latents(tmp_path / "latents", count=3)
    assert cli.main(["data", "describe", str(tmp_path / "latents"), "--out", str(tmp_path / "new" / "a.json")]) == 0
    assert "the autoencoder a is not at hand: name its folder with --autoencoder" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.json"]


def test_what_cannot_be_described_is_one_sentence(tmp_path, capsys):
    assert cli.main(["data", "describe", str(tmp_path / "nothing")]) == 2
    assert "there is no data folder" in capsys.readouterr().err
    make_latents(tmp_path / "latents", count=3)
    assert cli.main(["data", "describe", str(tmp_path / "latents"), "--out", str(tmp_path / "a.txt")]) == 2
    assert "does not end in .json" in capsys.readouterr().err


def test_images_need_no_autoencoder(data, capsys):
    assert cli.main(["data", "describe", str(data / "images"), "--autoencoder", "a"]) == 2
    assert "images holds images, which need no --autoencoder; leave it out" in capsys.readouterr().err
