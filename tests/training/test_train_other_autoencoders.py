"""`train_autoencoder` with other networks than the small one: their folders serve the rest of the pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from hydra import compose, initialize_config_dir

from micro_diffusion.autoencoder.saved import load_autoencoder
from micro_diffusion.data.prepare.convert import convert
from micro_diffusion.data.prepare.engine import Processes
from micro_diffusion.data.prepare.preparation import Preparation
from micro_diffusion.data.sources.shapes import Shapes
from micro_diffusion.training.build import train
from micro_diffusion.training.config_checks.resolvers import register_resolvers

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
LDM = ["autoencoder=ldm_f4", "autoencoder.multipliers=[1,1,2]"]
DECODER = ["autoencoder=sdxl_decoder", "autoencoder.channels=2", "autoencoder.downsampling=2"]


def run(tmp_path: Path, *overrides: str) -> Path:
    """Two steps of a training on a few shapes; its run folder."""
    source = Shapes(seed=0, count=6, resolution=16)
    convert(source=source, out=tmp_path / "images", preparation=Preparation(), engine=Processes(count=1))
    register_resolvers()
    places = [f"{loader}_loader.paths=[{tmp_path}/images]" for loader in ("train", "eval")]
    sizes = ["train_loader.batch_size=3", "resolution=16", "model.crop=16", "model.shrink=[1]"]
    length = ["algorithms.ema.start=1ba", "trainer.max_duration=2ba", "machine=cpu"]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        train(
            compose(
                "train_autoencoder",
                overrides=[*overrides, f"output_dir={tmp_path}/runs", *places, *sizes, *length],
            )
        )
    return tmp_path / "runs" / "autoencoder"


def images() -> torch.Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_the_latent_diffusion_vae(tmp_path):
    folder = run(tmp_path, *LDM)
    autoencoder = load_autoencoder(folder / "autoencoder", channels=4, downsampling=4)
    assert autoencoder.name.startswith("ldm-vae-f4-c4-")
    assert (autoencoder.scaling != 1).all(), "the scale was not measured"
    assert autoencoder.encode(images()).shape == (2, 4, 4, 4)


@pytest.mark.parametrize("trained", ["decoder", "all"])
def test_one_of_diffusers(tmp_path, trained):
    torch.manual_seed(0)
    released = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=2,
        norm_num_groups=4,
        scaling_factor=0.5,
    )
    released.save_pretrained(tmp_path / "vae")
    place = [f"autoencoder.path={tmp_path}/vae", "autoencoder.subfolder=null", f"autoencoder.trained={trained}"]
    autoencoder = load_autoencoder(run(tmp_path, *DECODER, *place) / "autoencoder")
    with torch.no_grad():
        before = released.encode(images()).latent_dist.mean * 0.5
    same = torch.allclose(autoencoder.encode(images(), sample=False), before, atol=1e-5)
    assert same == (trained == "decoder"), "latents stay where the decoder alone is trained"
    assert not torch.equal(autoencoder.last_layer, released.decoder.conv_out.weight)
