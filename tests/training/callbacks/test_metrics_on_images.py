"""Scores of generated images reach the loggers while a run trains."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from micro_diffusion.autoencoder.identity import IdentityAutoencoder
from micro_diffusion.evaluation.composition import CompositionMetrics
from micro_diffusion.evaluation.metrics import ImageMetrics
from micro_diffusion.evaluation.prompt_files import prompts_of_file
from micro_diffusion.sampling.heun import HeunSampler
from micro_diffusion.sampling.pipeline import Pipeline
from micro_diffusion.text.tiny import TinyTextEncoder
from micro_diffusion.training.callbacks.metrics_on_images import MetricsOnImages
from tests.evaluation.test_reference import folder_of
from tests.training.callbacks.test_image_logger import after_the_last_step


def callback(metrics, folder: Path, scale: float = 1.0, **further) -> MetricsOnImages:
    (folder / "prompts.txt").write_text("a large red circle on a white background\n" * 5)
    return MetricsOnImages(
        metrics=metrics,
        pipeline=partial(
            Pipeline,
            text_encoder=TinyTextEncoder(dim=24, max_length=16),
            autoencoder=IdentityAutoencoder(),
            sampler=HeunSampler(steps=1),
        ),
        prompts=prompts_of_file(path=str(folder / "prompts.txt"), count=5, guidance_scale=scale),
        interval="1ba",
        batch_size=8,
        encoder_device="cpu",
        **further,
    )


@pytest.mark.parametrize("kind", ["distance", "composition"])
def test_scores_are_logged_and_no_grid_is_written(kind: str, tmp_path: Path):
    metrics = CompositionMetrics()
    if kind == "distance":
        reference = str(folder_of(tmp_path / "real"))
        options = {"features": "random_conv", "size": 16, "cache": str(tmp_path / "cache"), "device": "cpu"}
        metrics = ImageMetrics(metrics=["fid", "precision_recall"], reference=reference, **options)
    logged: dict[str, float] = {}
    steps = []

    def log(numbers, step):
        logged.update(numbers)
        steps.append(step)

    before = torch.get_rng_state()
    callback(metrics, tmp_path).batch_checkpoint(after_the_last_step(), SimpleNamespace(log_metrics=log))  # pyright: ignore[reportArgumentType]
    expected = ("fid_random_conv", "precision_random_conv", "recall_random_conv")
    names = (
        expected if kind == "distance" else ("correct", "background", "count", "colour", "shape", "size", "relation")
    )
    assert set(logged) == {f"images/{name}" for name in names}
    assert steps == [3]
    assert torch.equal(before, torch.get_rng_state())


def test_real_images_that_are_not_there_are_missed_before_the_first_step(tmp_path: Path):
    metrics = ImageMetrics(metrics=["fid"], reference=str(tmp_path / "nowhere"), features="random_conv", device="cpu")
    state = SimpleNamespace(train_dataloader=None, **vars(after_the_last_step()))
    with pytest.raises(FileNotFoundError, match="there is no folder of images"):
        callback(metrics, tmp_path).fit_start(state, None)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("scale", "interval", "calls"), [(1.0, None, 1), (3.0, None, 2), (3.0, [0.0, 100.0], 2)])
def test_a_finished_network_is_scored_and_its_calls_are_counted(scale, interval, calls, tmp_path: Path):
    """One for an image and step of Heun's sampler down to no noise; guidance takes as many again."""
    made = callback(CompositionMetrics(), tmp_path, scale, guidance_interval=interval)
    scores = made.scores(after_the_last_step().model)
    assert scores.pop("calls") == calls and "correct" in scores


def test_guidance_that_there_cannot_be_is_refused_before_the_first_step(tmp_path: Path):
    with pytest.raises(ValueError, match=r"guidance_interval is \[5, 0.3\]; set it to rising noise levels"):
        callback(CompositionMetrics(), tmp_path, 3.0, guidance_interval=[5, 0.3])
    state = SimpleNamespace(train_dataloader=None, **vars(after_the_last_step()))
    with pytest.raises(FileNotFoundError, match="there is no run folder"):
        callback(CompositionMetrics(), tmp_path, 3.0, weaker="nowhere").fit_start(state, None)  # pyright: ignore[reportArgumentType]
