"""Images of no known content: their distance to unseen ones, and whether they are copies."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from micro_diffusion.data.prepare.convert import convert
from micro_diffusion.data.prepare.engine import Processes
from micro_diffusion.data.prepare.preparation import Preparation
from micro_diffusion.data.sources.shape_scenes import caption, scene
from micro_diffusion.data.sources.shapes import Shapes
from micro_diffusion.evaluation.drawings import DrawingMetrics
from micro_diffusion.evaluation.nearest import images_of_data
from micro_diffusion.evaluation.prompt_files import prompts_of_images


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawings")
    for split, seed in (("train", 0), ("eval", 1), ("other", 2)):
        source = Shapes(seed=seed, count=90, resolution=32)
        convert(source=source, out=folder / split, preparation=Preparation(), engine=Processes(count=1))
    return folder


def of(data: Path, split: str) -> Tensor:
    return images_of_data(data / split, 32)


def test_copies_of_training_images_are_told_from_others(data: Path):
    metrics = DrawingMetrics(training=str(data / "train"), unseen=str(data / "eval"), size=32)
    metrics.open()
    copies, new = (metrics(of(data, split), [""] * 90) for split in ("train", "other"))
    assert copies["copied"] == 1.0 and new["copied"] < 0.3
    noise = metrics(torch.randint(256, (90, 3, 32, 32), dtype=torch.uint8), [""] * 90)
    assert noise["fid_random_conv"] > 10 * new["fid_random_conv"]


def test_prompts_are_the_captions_of_images(data: Path):
    prompts = prompts_of_images(path=str(data / "eval"), count=3, guidance_scale=2.0, seed=5)
    assert list(prompts.captions) == [caption(scene(1, index)) for index in range(3)]
    assert (prompts.guidance_scale, prompts.seed) == (2.0, 5)
    with pytest.raises(ValueError, match="has 90 prompts, fewer than 91"):
        prompts_of_images(path=str(data / "eval"), count=91)
