"""Folders of real images: how they are prepared, kept, and told apart from others."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from micro_diffusion.evaluation.features import RandomConvolutions
from micro_diffusion.evaluation.image_folder import ImageFiles, Preparation, batches_of
from micro_diffusion.evaluation.metrics import ImageMetrics
from micro_diffusion.evaluation.reference import reference_of
from tests.evaluation.test_features import scenes

NETWORK = RandomConvolutions()


def folder_of(path: Path, count: int = 12, *, seed: int = 0, suffix: str = "png") -> Path:
    path.mkdir(parents=True)
    for index, image in enumerate(scenes(count, seed)):
        image.save(path / f"{index:03d}.{suffix}")
    return path


def test_a_centre_square_is_resized_and_its_filter_matters():
    wide = Image.new("RGB", (40, 20), "white")
    wide.paste((0, 0, 0), (10, 0, 30, 20))
    assert int(Preparation(size=8)(wide).max()) == 0
    assert Preparation()(wide).shape == (3, 20, 40)
    noisy = Image.fromarray(np.random.RandomState(0).randint(0, 256, (20, 20, 3), np.uint8))
    assert not torch.equal(Preparation(size=8)(noisy), Preparation(size=8, filter="bicubic")(noisy))
    assert torch.equal(Preparation(size=20)(noisy), Preparation()(noisy))


def test_features_are_kept_for_the_same_images_network_and_preparation(tmp_path: Path):
    images, cache = folder_of(tmp_path / "real"), tmp_path / "cache"

    def get(**preparation):
        return reference_of(images, NETWORK, preparation=Preparation(**preparation), cache=cache)

    first, seen = get(), []
    again = reference_of(images, NETWORK, preparation=Preparation(), cache=cache, on_batch=seen.append)
    assert first.features is not None
    assert again.features is not None
    assert torch.equal(first.features, again.features)
    assert seen == []
    get(size=16)
    assert len(list(cache.iterdir())) == 2
    scenes(1, seed=9)[0].save(images / "000.png")
    changed = get()
    assert changed.features is not None
    assert len(list(cache.iterdir())) == 3
    assert not torch.equal(first.features[0], changed.features[0])


def test_statistics_of_another_network_or_preparation_are_refused(tmp_path: Path):
    reference_of(folder_of(tmp_path / "real"), NETWORK, preparation=Preparation(), cache=tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    with pytest.raises(ValueError, match="has statistics with weights"):
        reference_of(file, RandomConvolutions(seed=1), preparation=Preparation(), cache=tmp_path)
    with pytest.raises(ValueError, match="has statistics with preparation as they are, but this evaluation has centre"):
        reference_of(file, NETWORK, preparation=Preparation(size=16), cache=tmp_path)


def test_published_moments_serve_the_frechet_distance_alone(tmp_path: Path):
    real = folder_of(tmp_path / "real")
    known = reference_of(real, NETWORK, preparation=Preparation(), cache=tmp_path / "cache")
    np.savez(tmp_path / "stats.npz", mu=known.moments.mean, sigma=known.moments.covariance)
    options = {"reference": str(tmp_path / "stats.npz"), "features": "random_conv"}
    names = sorted(path.name for path in real.iterdir())
    scores = ImageMetrics(metrics=["fid"], **options).of_folder(real, names, [])
    assert scores == {"fid_random_conv": pytest.approx(0, abs=1e-6)}
    with pytest.raises(ValueError, match="suffices for fid and fd_dinov2 alone"):
        ImageMetrics(metrics=["kid"], **options).of_folder(real, names, [])
    np.savez(tmp_path / "stats.npz", mu=np.zeros(3), sigma=np.eye(3))
    with pytest.raises(ValueError, match="statistics are of 3 features, but this network has 64"):
        ImageMetrics(metrics=["fid"], **options).of_folder(real, names, [])
    np.savez(tmp_path / "stats.npz", mean=np.zeros(3))
    with pytest.raises(ValueError, match="holds no `mu` and `sigma`"):
        ImageMetrics(metrics=["fid"], **options).of_folder(real, names, [])


def test_images_of_several_sizes_missing_and_damaged_ones(tmp_path: Path):
    folder = folder_of(tmp_path / "real", count=3, suffix="jpg")
    with pytest.raises(FileNotFoundError, match=r"1 of 2 images are missing from .*, the first is 9\.jpg"):
        ImageFiles(folder, Preparation(), ["000.jpg", "9.jpg"])
    Image.new("RGB", (8, 9)).save(folder / "big.png")
    with pytest.raises(ValueError, match="are of several sizes, such as 9×8 and 32×32; give --size"):
        list(batches_of(ImageFiles(folder, Preparation()), batch_size=8))
    (folder / "big.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"big\.png in .* cannot be read as an image"):
        list(batches_of(ImageFiles(folder, Preparation()), batch_size=8))
    with pytest.raises(FileNotFoundError, match="no folder of images"):
        ImageFiles(tmp_path / "nowhere", Preparation())
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="there are no images in"):
        ImageFiles(tmp_path / "empty", Preparation())


def test_options_without_effect_and_unknown_metrics_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="fid compares with real images; name a folder"):
        ImageMetrics(metrics=["fid"])
    with pytest.raises(ValueError, match="a reference has no effect on clip_score"):
        ImageMetrics(metrics=["clip_score"], reference=str(tmp_path))
    with pytest.raises(ValueError, match=r"choose some of fid, kid"):
        ImageMetrics(metrics=["is"])  # pyright: ignore[reportArgumentType]
