"""The evaluation loss of weights outside of a training: the same images, noise levels and noise as within one."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor

from micro_diffusion.checkpoint import load_strictly
from micro_diffusion.training.latent_diffusion import LatentDiffusion
from micro_diffusion.training.seeded_random import Draws


class EvaluationLoss:
    """Of weights of a run's network, on the data of its evaluation.

    Args:
        config: of the run, resolved.
        data: the folder of latents, when it is not where it was in training.
        device: of the network.

    Raises:
        ValueError: for a run that is no training of a diffusion model, or has no data for evaluations.
    """

    def __init__(self, config: Mapping[str, Any], *, data: Path | None = None, device: torch.device) -> None:
        if not config.get("eval_loader"):
            raise ValueError(
                "the run's config.yaml has no eval_loader, so that there is nothing to measure a loss on; choose "
                "--measure composition or none"
            )
        model = instantiate({**config["model"], "auxiliary": None}, _convert_="all")
        if not isinstance(model, LatentDiffusion):
            raise ValueError(f"the run trains a {type(model).__name__}, which has no loss at fixed noise levels")
        self.model, self.device = model.to(device).eval(), device
        self.batches = config["trainer"].get("eval_subset_num_batches", -1)
        self.loader = instantiate(
            config["eval_loader"], **({} if data is None else {"path": str(data)}), _convert_="all"
        )

    @torch.no_grad()
    def __call__(self, weights: Mapping[str, Tensor]) -> float:
        """Of all weights by name."""
        load_strictly(self.model.network, weights, source="the average")  # pyright: ignore[reportArgumentType]
        metric = self.model.get_metrics()["loss"].to(self.device)
        metric.reset()
        for number, batch in enumerate(islice(self.loader, None if self.batches < 0 else self.batches)):
            size = len(next(iter(batch.values())))
            draws = Draws.of(0, "eval", number, size=size, step=number)
            draws = draws._replace(total=draws.total - int(batch["repeated"].sum()) if "repeated" in batch else size)
            drawn = {
                key: value.to(self.device) if isinstance(value, Tensor) else value
                for key, value in self.model.draw_eval(batch, draws).items()
            }
            self.model.update_metric(drawn, self.model.eval_forward(drawn), metric)
        return float(metric.compute())
