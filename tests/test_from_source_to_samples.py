"""The documented commands in a row, from images as they come to images that were drawn."""

import subprocess
import sys
from pathlib import Path

import pyarrow
import pytest
import webdataset
from PIL import Image
from pyarrow import parquet

from tests.data.sources.publishers import image

ROOT = Path(__file__).resolve().parents[1]
EMOJI_FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
COUNT = 24


def write_webdataset(folder: Path) -> list[str]:
    folder.mkdir()
    with webdataset.ShardWriter(str(folder / "%04d.tar"), maxcount=10, verbose=0) as writer:
        for index in range(COUNT):
            writer.write({"__key__": f"{index:05}", "png": image(index, "png"), "txt": f"an image of {index}"})
    return ["source=webdataset", f"source.path={folder}"]


def write_parquet(folder: Path) -> list[str]:
    folder.mkdir()
    rows = {
        "image": [{"bytes": image(index, "png"), "path": f"{index}.png"} for index in range(COUNT)],
        "caption": [f"an image of {index}" for index in range(COUNT)],
    }
    parquet.write_table(pyarrow.table(rows), folder / "train.parquet", row_group_size=10)
    return ["source=parquet", f"source.path={folder}", "source.caption=caption"]


def choose_emoji(folder: Path) -> list[str]:
    if not EMOJI_FONT.is_file():
        pytest.skip(f"there is no {EMOJI_FONT}")
    return ["source=emoji", "preparation.split=eval"]


@pytest.mark.slow
@pytest.mark.parametrize("source", [write_webdataset, write_parquet, choose_emoji])
def test_convert_precompute_train_and_draw(tmp_path, source):
    images, latents, runs = tmp_path / "images", tmp_path / "latents", tmp_path / "runs"
    loaders = [f"{part}_loader.path={latents}" for part in ("train", "eval")]
    length = ["train_loader.batch_size=8", "trainer.max_duration=20ba", "algorithms.ema.start=2ba"]
    command = [Path(sys.executable).parent / "micro-diffusion", "generate", runs / "quickstart_32_pretrain"]
    for arguments in (
        [sys.executable, "scripts/convert.py", *source(tmp_path / "source"), f"out={images}"],
        [
            sys.executable,
            *("scripts/precompute.py", "--config-name", "quickstart_precompute"),
            *(f"images={images}", f"out={latents}"),
        ],
        [
            sys.executable,
            *("train.py", "--config-path", "./configs", "--config-name", "quickstart_32_pretrain.yaml"),
            *(f"output_dir={runs}", *loaders, *length),
        ],
        [*command, "an image of 3", "--steps", "2", "--out", tmp_path / "drawn.png"],
    ):
        done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
    with Image.open(tmp_path / "drawn.png") as drawn:
        assert drawn.size == (32, 32)
