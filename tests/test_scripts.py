"""From a source to batches by way of the scripts and their configurations."""

from pathlib import Path

import hydra
import pytest
import torch
from hydra import compose, initialize_config_dir

from micro_diffusion.data.sources.shape_scenes import parse_caption
from micro_diffusion.data.stream.loader import build_loader
from micro_diffusion.training.config_checks.schema import validate_command
from tests.forked_process import run_script

ROOT = Path(__file__).resolve().parents[1]


def call(name: str, *overrides: str) -> None:
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = compose(name, overrides=list(overrides))
    validate_command(config)
    hydra.utils.call(config, _convert_="all")


@pytest.mark.parametrize("split", ["train", "eval"])
def test_the_quickstart_s_data_are_made_and_read(tmp_path, split):
    images, latents = tmp_path / "images", tmp_path / "latents"
    call(f"quickstart_convert_{split}", f"out={images}", "source.count=9", "engine.count=1")
    call("quickstart_precompute", f"images={images}", f"out={latents}", "batch_size=4")
    for resolution in (32, 64):
        (batch,) = build_loader(path=str(latents), resolution=resolution, batch_size=9, shuffle=True)
        assert batch["latents"].shape == (9, 4, resolution // 4, resolution // 4)
        assert batch["latents"].std() == pytest.approx(1, abs=0.4)
        words = torch.tensor([len(caption.split()) for caption in batch["caption"]])
        assert (batch["caption_mask"].sum(dim=1) > words).all()
        assert all(parse_caption(caption) for caption in batch["caption"])


def test_pixels_are_stored_as_they_are(tmp_path):
    images, latents = tmp_path / "images", tmp_path / "latents"
    call("convert", f"out={images}", "source.count=4", "source.resolution=16", "engine.count=1")
    options = ("autoencoder=identity", "text_encoder=tiny", "resolutions=[16]", "workers=0")
    call("precompute", f"images={images}", f"out={latents}", *options)
    (batch,) = build_loader(path=str(latents), resolution=16, batch_size=4, shuffle=False)
    assert batch["latents"].shape == (4, 3, 16, 16)
    assert batch["latents"].min() >= -1
    assert batch["latents"].max() <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convert.py"], "Error: out has no value; set out=VALUE"),
        (["convert.py", "out=x", "part_sise=1"], "nothing takes the key part_sise; did you mean part_size?"),
        (
            ["convert.py", "out=x", "source=image_folder", "source.path=gone"],
            "there is no folder gone; set source.path",
        ),
        (
            ["precompute.py", "--config-name", "quickstart_precompute", "images=gone", "out=x"],
            "there is no data folder gone; make it with: python scripts/convert.py",
        ),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, arguments, message):
    done = run_script(ROOT / "scripts" / arguments[0], *arguments[1:], cwd=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
