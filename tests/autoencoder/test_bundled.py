"""The autoencoder that ships with the package: found, small, and good enough to judge shapes by."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from micro_diffusion.autoencoder.kl import KLAutoencoder
from micro_diffusion.bundled import bundled_path, resolve_path
from micro_diffusion.data.image.transforms import normalise
from micro_diffusion.data.sources.shape_scenes import caption, render, scene
from micro_diffusion.evaluation.composition import score


@pytest.fixture(scope="module")
def autoencoder() -> KLAutoencoder:
    return KLAutoencoder.load("bundled:autoencoder", channels=4, downsampling=4)


@pytest.fixture(scope="module")
def scenes():
    return [scene(123, index, held_out="include") for index in range(60)]


def rendered(scenes, resolution: int) -> torch.Tensor:
    return torch.from_numpy(np.stack([render(drawn, resolution) for drawn in scenes])).permute(0, 3, 1, 2)


def test_is_small():
    assert sum(file.stat().st_size for file in bundled_path("autoencoder").iterdir()) < 3_000_000


@pytest.mark.parametrize("noise", [0.0, 0.15])
def test_shapes_stay_recognisable(autoencoder, scenes, noise):
    """Even with errors in the latents as a diffusion model makes them."""
    latents = autoencoder.encode(normalise(rendered(scenes, 64)), sample=False)
    errors = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    images = (autoencoder.decode(latents + noise * errors) * 127.5 + 127.5).round().byte()
    judged = score(list(images.permute(0, 2, 3, 1).numpy()), [caption(drawn) for drawn in scenes])
    assert judged["correct"] >= 0.9
    assert judged["colour"] == judged["count"] == 1


def test_latents_of_shapes_have_about_the_scale_of_edm_small(autoencoder):
    """Whose sigma_data is 1 for all channels together. The mean follows the backgrounds, hence many scenes."""
    scenes = [scene(7, index, held_out="include") for index in range(300)]
    for resolution in (32, 64):
        latents = autoencoder.encode(normalise(rendered(scenes, resolution)), sample=False)
        assert latents.mean(dim=(0, 2, 3)).abs().max() < 0.3
        assert 0.7 < latents.std() < 1.4


def test_paths(tmp_path):
    assert resolve_path("bundled:autoencoder") == bundled_path("autoencoder")
    assert resolve_path(str(tmp_path)) == tmp_path
    for name in ("nothing", "", "..", "../data"):
        with pytest.raises(FileNotFoundError, match="is bundled; choose one of .*autoencoder"):
            bundled_path(name)
