"""Scores a few generated images while a run trains: numbers in every logger, beside the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, cast

import torch
from composer import Logger, State
from torch import Tensor, nn

from micro_diffusion.backbone.backbone import Backbone
from micro_diffusion.bounds import NonNegativeFloat, PositiveInt
from micro_diffusion.checkpoint import load_run
from micro_diffusion.files.run_folders import find_run
from micro_diffusion.sampling.guidance import ROUTE, WeakerRun, without_route
from micro_diffusion.sampling.pipeline import Pipeline
from micro_diffusion.sampling.prompts import Prompts
from micro_diffusion.training.callbacks.image_logger import ImageLogger
from micro_diffusion.training.latent_diffusion import LatentDiffusion
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
        guidance_interval: noise levels (low, high) that are guided; None for all.
        weaker: a run that guidance leads away from, in place of no prompt (autoguidance); its folder or name. "route"
            is the network itself without its route and prompt (path-drop guidance).

    Raises:
        ValueError: for a guidance interval that is no two rising noise levels.
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
        guidance_interval: Sequence[NonNegativeFloat] | None = None,
        weaker: str | None = None,
    ) -> None:
        super().__init__(
            pipeline=pipeline,
            prompts=prompts,
            interval=interval,
            folder="",
            batch_size=batch_size,
            encoder_device=encoder_device,
        )
        self.metrics, self.weaker, self._rows = metrics, weaker, 0
        if guidance_interval is not None and (
            len(guidance_interval) != 2 or guidance_interval[0] >= guidance_interval[1]
        ):
            raise ValueError(
                f"guidance_interval is {list(guidance_interval)}; set it to rising noise levels, as [0.3,5]"
            )
        self.guidance_interval = None if guidance_interval is None else tuple(guidance_interval)

    def fit_start(self, state: State, logger: Logger) -> None:
        """Find out before training that files of a feature network, real images or the weaker run are missing."""
        super().fit_start(state, logger)
        if self.weaker not in (None, ROUTE):
            find_run(self.weaker)
        self._open_metrics()

    def scores(self, model: LatentDiffusion) -> Mapping[str, float]:
        """Of a network outside of a training, in the precision of its model; and `calls`, of networks for an image."""
        self._open_metrics()
        self._rows = 0
        counted = model.network.register_forward_pre_hook(self._count)
        images, captions = self._images(model.network, model, nullcontext())
        counted.remove()
        return {**self.metrics(images, captions), "calls": self._rows / len(images)}

    def _open_metrics(self) -> None:
        """Load what metrics need, of those that need something."""
        getattr(self.metrics, "open", lambda: None)()

    def _count(self, network: nn.Module, inputs: tuple[Any, ...]) -> None:
        """The rows of a call."""
        self._rows += len(inputs[0])

    def _parts(self, network: nn.Module, model: LatentDiffusion) -> Mapping[str, Any]:
        """The weaker run's network."""
        if self.weaker is None:
            return {}
        if self.weaker == ROUTE:
            return {"weaker": without_route(model.objective, cast(Backbone, network))}
        run = load_run(find_run(self.weaker), device=next(network.parameters()).device)
        run.backbone.register_forward_pre_hook(self._count)
        return {"weaker": WeakerRun(run.objective, run.backbone)}

    def _settings(self) -> Mapping[str, Any]:
        """The guidance interval."""
        return {} if self.guidance_interval is None else {"guidance_interval": self.guidance_interval}

    def _show(self, images: Tensor, captions: list[str], step: int, logger: Logger) -> None:
        """Score the images, and log the numbers."""
        scores = self.metrics(images, captions)
        logger.log_metrics({f"images/{name}": value for name, value in scores.items()}, step=step)
