"""Scores a few generated images while a run trains: numbers in every logger, beside the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from composer import Logger, State
from torch import Tensor

from micro_diffusion.bounds import PositiveInt
from micro_diffusion.sampling.pipeline import Pipeline
from micro_diffusion.sampling.prompts import Prompts
from micro_diffusion.training.callbacks.image_logger import ImageLogger
from micro_diffusion.training.times import Interval

Metrics = Callable[[Tensor, Sequence[str]], Mapping[str, float]]
"""Images uint8 (N, 3, H, W) and their N captions -> numbers by name."""


class MetricsOnImages(ImageLogger):
    """Generates like the image logger, with prompts and an interval of its own, and logs scores as `images/NAME`.

    Few images suffice to follow a run; Fréchet distances of fewer images than features are far too high and comparable
    only to each other.

    Args:
        metrics: such as `micro_diffusion.evaluation.metrics.ImageMetrics`, or
            `micro_diffusion.evaluation.composition.CompositionMetrics` for the shapes data set.
        pipeline: see `ImageLogger`.
        prompts: of the images, such as `micro_diffusion.evaluation.prompt_files.prompts_of_file`.
        interval: how often, as a Composer time such as `5000ba`.
        batch_size: images generated at once.
        encoder_device: see `ImageLogger`.
    """

    def __init__(
        self,
        *,
        metrics: Metrics,
        pipeline: Callable[..., Pipeline],
        prompts: Prompts,
        interval: Interval,
        batch_size: PositiveInt,
        encoder_device: str | torch.device,
    ) -> None:
        super().__init__(
            pipeline=pipeline,
            prompts=prompts,
            interval=interval,
            folder="",
            batch_size=batch_size,
            encoder_device=encoder_device,
        )
        self.metrics = metrics

    def fit_start(self, state: State, logger: Logger) -> None:
        """Find out before training that files of a feature network or real images are missing."""
        super().fit_start(state, logger)
        getattr(self.metrics, "open", lambda: None)()

    def _show(self, images: Tensor, captions: list[str], step: int, logger: Logger) -> None:
        """Score the images, and log the numbers."""
        scores = self.metrics(images, captions)
        logger.log_metrics({f"images/{name}": value for name, value in scores.items()}, step=step)
