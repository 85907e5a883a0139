"""A stage's configuration, built on the meta device: all shapes, no memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from micro_diffusion.checkpoint import parameter_count
from micro_diffusion.doctor.encoders import ENCODERS
from micro_diffusion.training.config_checks.coherence import check_coherence
from micro_diffusion.training.config_checks.schema import validate

PARTS = ("schedule", "algorithms", "callbacks", "loggers", "sampler", "prompts", "trainer")


def build_on_meta(config: DictConfig) -> Any:
    """Everything that training makes of a configuration, but data, encoders and numbers; returns the model.

    Raises:
        ValueError: for a configuration that does not fit together.
    """
    validate(config)
    check_coherence(config)
    content: Any = OmegaConf.to_container(config, resolve=True)
    with torch.device("meta"):
        model = instantiate(content["model"], _convert_="all")
    instantiate(content["optimizer"], _convert_="all")(model.parameter_groups())
    encoders = [content[kind] for kind in ENCODERS if kind in content]
    for part in PARTS:
        if part in content:
            instantiate({part: _without(content[part], encoders)}, _convert_="all")
    return model


def summary(model: Any) -> str:
    """The network in a few words."""
    return f"{type(model.network).__name__}, {parameter_count(model.network):,} parameters"


def _without(node: Any, left_out: list[Any]) -> Any:
    """A resolved configuration in which the nodes of `left_out` are null."""
    if node in left_out:
        return None
    return {key: _without(value, left_out) for key, value in node.items()} if isinstance(node, Mapping) else node
