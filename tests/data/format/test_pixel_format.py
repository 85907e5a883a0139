"""Images as latents: exact without loss, near with JPEG, and from a source to a batch at any resolution."""

import numpy as np
import pytest
import torch

from micro_diffusion.autoencoder.identity import IdentityAutoencoder
from micro_diffusion.data.format.columns import describe
from micro_diffusion.data.format.latent_formats import restore_latent_format
from micro_diffusion.data.format.pixel_format import CompressedPixels
from micro_diffusion.data.image.transforms import normalise
from micro_diffusion.data.prepare.convert import convert
from micro_diffusion.data.prepare.precompute import precompute
from micro_diffusion.data.prepare.preparation import Preparation
from micro_diffusion.data.sources.shape_scenes import render, scene
from micro_diffusion.data.sources.shapes import Shapes
from micro_diffusion.data.stream.loader import build_loader
from micro_diffusion.text.tiny import TinyTextEncoder


def read(form: CompressedPixels, images: torch.Tensor) -> torch.Tensor:
    columns = form.encode("latents_16", normalise(images).numpy())
    return form.decode("latents_16", columns, (3, *images.shape[2:]))  # pyright: ignore[reportArgumentType]


def test_every_8_bit_pixel_comes_back():
    images = torch.arange(256, dtype=torch.uint8).repeat(3).reshape(1, 3, 16, 16)
    images = torch.cat([images, images.flip(1)])
    assert torch.equal(((read(CompressedPixels(), images) + 1) * 127.5).round().to(torch.uint8), images)
    torch.testing.assert_close(read(CompressedPixels(), images), normalise(images), rtol=0, atol=1e-6)


def test_jpeg_is_smaller_and_near():
    drawn = [render(scene(0, index), 64) for index in range(4)]
    images = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2)
    form = restore_latent_format(describe(CompressedPixels(quality=95)))
    assert (read(form, images) - normalise(images)).abs().mean() < 0.03
    assert CompressedPixels(quality=30).encode("x", normalise(images).numpy()).keys() == {"x"}


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (lambda: CompressedPixels().columns("x", (4, 8, 8)), "images of 3 channels, but the latents have 4"),
        (lambda: CompressedPixels().encode("x", np.full((1, 3, 2, 2), 1.5, np.float32)), "beyond the limit"),
        (
            lambda: CompressedPixels().decode(
                "x", CompressedPixels().encode("x", np.zeros((1, 3, 2, 2), np.float32)), (3, 4, 4)
            ),
            "is \\(2, 2, 3\\), but should be \\(4, 4, 3\\)",
        ),
    ],
)
def test_what_cannot_be_stored_is_refused(work, message):
    with pytest.raises(ValueError, match=message):
        work()


def test_images_are_streamed_at_every_resolution(tmp_path):
    convert(source=Shapes(seed=0, count=6, resolution=32), out=tmp_path / "images", preparation=Preparation())
    precompute(
        images=tmp_path / "images",
        out=tmp_path / "pixels",
        resolutions=[16, 32],
        autoencoder=IdentityAutoencoder(),
        text_encoder=TinyTextEncoder(dim=6, max_length=18),
        latent_format=CompressedPixels(),
        device="cpu",
    )
    for resolution in (16, 32):
        loader = build_loader(path=str(tmp_path / "pixels"), resolution=resolution, batch_size=6, shuffle=False)
        batch = next(iter(loader))
        assert batch["latents"].shape == (6, 3, resolution, resolution)
    numbers = [int(key.rpartition("-")[2]) for key in batch["key"]]
    drawn = np.stack([render(scene(0, number, pairs=0.5, held_out="exclude"), 32) for number in numbers])
    wanted = normalise(torch.from_numpy(drawn).permute(0, 3, 1, 2))
    torch.testing.assert_close(batch["latents"], wanted, rtol=0, atol=1e-6)
