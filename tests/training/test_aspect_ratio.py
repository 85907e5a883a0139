"""Images of 4:3 from their latents to a drawn one, in the compact formats."""

import pytest
import torch
from PIL import Image

from micro_diffusion.autoencoder.kl import KLAutoencoder
from micro_diffusion.cli.entry import main
from micro_diffusion.data.format.caption_formats import CaptionFeatures
from micro_diffusion.data.format.latent_formats import Int8Latents
from micro_diffusion.data.image.crops import AspectRatioBucket
from micro_diffusion.data.prepare.precompute import precompute
from micro_diffusion.text.tiny import TinyTextEncoder
from tests.small_training import losses, make_latents, train_here


@pytest.mark.parametrize("padded", [True, False])
def test_rectangular_latents_are_trained_on_and_drawn(tmp_path, padded, capsys):
    make_latents(tmp_path, 24)
    precompute(
        images=tmp_path / "images",
        out=tmp_path / "rectangles",
        resolutions=[32],
        autoencoder=KLAutoencoder.load("bundled:autoencoder"),
        text_encoder=TinyTextEncoder(dim=192, max_length=18),
        crop=AspectRatioBucket(ratio="4:3", among=("4:3",), multiple=8),
        latent_format=Int8Latents(),
        caption_format=CaptionFeatures(dtype="int8", padded=padded),
    )
    loaders = [f"{name}_loader.path={tmp_path}/rectangles" for name in ("train", "eval")]
    network = ["resolution=32", "backbone.input_size=[6,10]", "backbone.use_caption_mask=true"]
    train_here(tmp_path, "exp_name=wide", *loaders, *network, "trainer.max_duration=20ba")
    found = losses(tmp_path / "runs" / "wide")
    assert sorted(found) == list(range(20)) and all(torch.tensor(list(found.values())).isfinite())
    grid = Image.open(tmp_path / "runs" / "wide" / "samples" / "step_0000020.png")
    assert grid.width > grid.height  # one image, and its caption below
    drawing = ["--seed", "0", "--steps", "2", "--out", str(tmp_path / "out.png")]
    main(["generate", str(tmp_path / "runs" / "wide"), "a large red circle", *drawing])
    assert Image.open(tmp_path / "out.png").size == (40, 24)
    assert main(["evaluate", str(tmp_path / "runs" / "wide"), "--out", str(tmp_path / "scores.json")]) == 2
    assert "wide generates 24×40, but only square images can be judged; use generate" in capsys.readouterr().err
