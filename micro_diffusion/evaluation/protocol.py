"""How a published number is measured: metrics, prompts and preparation, as one file of configs/evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from micro_diffusion.bounds import PositiveInt, Seed
from micro_diffusion.evaluation.image_folder import FILTERS, Filter
from micro_diffusion.evaluation.metrics import MetricName


class Protocol:
    """What an evaluation fixes, so that its number can be compared with others.

    Args:
        metrics: see `ImageMetrics`.
        prompts: how many of a file of prompts; None for all.
        prompt_seed: of the choice of COCO's images and captions.
        size: both real and generated images are cut to the centre square and resized to it; None for no resizing.
        filter: of the resizing.

    Raises:
        ValueError: for an unknown metric or filter.
    """

    def __init__(
        self,
        *,
        metrics: Sequence[MetricName],
        prompts: PositiveInt | None = None,
        prompt_seed: Seed = 0,
        size: PositiveInt | None = None,
        filter: Filter = "lanczos",
    ) -> None:
        if unknown := [name for name in metrics if name not in get_args(MetricName)]:
            raise ValueError(f"there is no metric {unknown[0]}; choose some of {', '.join(get_args(MetricName))}")
        if filter not in FILTERS:
            raise ValueError(f"there is no filter {filter}; choose one of {', '.join(FILTERS)}")
        self.metrics = list(metrics)
        self.prompts, self.prompt_seed, self.size = prompts, prompt_seed, size
        self.filter: Filter = filter


def find_protocol(name: str, configs: Path) -> Protocol:
    """The protocol of a file of `configs`/evaluation.

    Raises:
        FileNotFoundError: when there is none; lists those that exist.
    """
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    path = configs / "evaluation" / f"{name}.yaml"
    if not path.is_file():
        there = ", ".join(sorted(other.stem for other in path.parent.glob("*.yaml")))
        raise FileNotFoundError(f"there is no protocol {name} in {path.parent}; choose one of {there}")
    return instantiate(OmegaConf.load(path), _convert_="all")
