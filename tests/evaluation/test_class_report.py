"""Scores by class, from images in folders to reports, with stand-ins for the models."""

from pathlib import Path

import pytest
import torch

from micro_diffusion.autoencoder.kl import KLAutoencoder
from micro_diffusion.data.prepare.convert import convert
from micro_diffusion.data.prepare.engine import Processes
from micro_diffusion.data.prepare.preparation import Preparation
from micro_diffusion.data.sources.class_folder import ClassFolder
from micro_diffusion.evaluation import class_report as reports
from micro_diffusion.evaluation.class_judge import train_judge
from micro_diffusion.evaluation.class_report import Reference, class_report, reconstruction_report, reference
from scripts.class_folders import write


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of MDS images in train and eval, of eight classes."""
    folder = tmp_path_factory.mktemp("classes")
    write(folder / "classes", count=80, side=16, seed=0)
    source = ClassFolder(path=str(folder / "classes"))
    for split in ("train", "eval"):
        preparation = Preparation(split=split, eval_fraction=0.3)
        convert(source=source, out=folder / split, preparation=preparation, engine=Processes(count=1))
    return folder


@pytest.fixture(scope="module")
def real(images: Path) -> Reference:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reports, "train_judge", lambda data, classes: train_judge(data, classes=classes, steps=150))
        return reference(images, names=None, side=16)


def test_the_folders_have_a_class_for_each_shape_in_each_family_of_colours(images: Path, real: Reference):
    assert real.names == [f"{family} {shape}" for family in ("cool", "warm") for shape in SHAPES]
    assert len(list((images / "classes").glob("*/*.png"))) == 80 == len(real.train.images) + len(real.held_out.images)
    with pytest.raises(FileExistsError, match=r"classes is there already; remove it, or choose another folder"):
        write(images / "classes", count=1, side=16, seed=0)


SHAPES = ("circle", "square", "star", "triangle")


def test_images_of_the_training_are_right_and_those_of_another_class_wrong(real: Reference):
    of_class = [real.train.images[real.train.classes == number] for number in range(8)]

    def generate(names, shift=0):
        return torch.stack([of_class[(real.names.index(name) + shift) % 8][0] for name in names])

    report, grid = class_report(generate, real, count=2)
    assert report["accuracy"] > 0.9 and report["images"] == 16
    assert list(report["accuracy_of_each"]) == real.names
    assert grid.width < grid.height  # two columns, eight rows
    wrong, _ = class_report(lambda names: generate(names, shift=1), real, count=2)
    assert wrong["accuracy"] < 0.1
    assert 0 <= report["judge_on_held_out"] == real.accuracy <= 1


def test_reconstructions_are_scored_beside_their_originals(real: Reference):
    good, _ = reconstruction_report(KLAutoencoder.load("bundled:autoencoder"), real)
    fresh, _ = reconstruction_report(KLAutoencoder(channels=4, downsampling=4, width=8), real)
    assert good["psnr_db"] > 25 > fresh["psnr_db"] and good["ssim"] > 0.8 > fresh["ssim"]
    assert good["frechet_distance"] < fresh["frechet_distance"]
    assert good["images"] == len(real.held_out.images)


def test_images_of_a_class_that_the_run_does_not_know_are_an_error(images: Path):
    with pytest.raises(ValueError, match=r"train has images of the class '.*', which is none of warm star, dog; give"):
        reference(images, names=["warm star", "dog"], side=16)


def test_images_that_are_not_there_are_an_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"train; make it with: python scripts/convert\.py"):
        reference(tmp_path, names=None, side=16)
