"""Bytes that training needs on each device, by the formulae of `plan.py`."""

from __future__ import annotations

from typing import NamedTuple

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn

from micro_diffusion.checkpoint import parameter_count
from micro_diffusion.performance.training_step import activation_bytes, without_checkpointing
from micro_diffusion.training.sharding import layers

AVERAGE, GATHERED, COPY = 4, 4, 4
"""Bytes a parameter: average; gathered weight; weight of the copy that the first rank draws with."""


class Stored(NamedTuple):
    """Bytes a parameter.

    state: weight, gradient and two moments. autocast: its copy. bucket: of DDP. checkpoint: weight and moments, saved.
    """

    state: int
    autocast: int
    bucket: int
    checkpoint: int
    weight: int


STORED = {"fp32": Stored(16, 2, 4, 12, 4), "bf16": Stored(12, 0, 2, 10, 2)}
"""By `model.weight_dtype`; vectors, which are fp32 in any case, are too few to count."""

LARGEST_LAYER = 3
"""Activations of the largest layer over those of the mean one, at most: of a mixer, which sees hidden patches too."""


class Saved(NamedTuple):
    """Bytes that a run leaves on the disk: in each checkpoint, and as weights in the end."""

    checkpoint: int
    weights: int


def saved_by(config: DictConfig, parameters: int) -> Saved:
    """What a training of so many parameters by this configuration saves."""
    stored, average = STORED[config.model.get("weight_dtype", "fp32")], _average(config) * parameters
    return Saved(stored.checkpoint * parameters + average, stored.weight * parameters + average)


def _average(config: DictConfig) -> int:
    """Bytes a parameter."""
    return 0 if config.algorithms.get("ema") is None else AVERAGE


class Memory(NamedTuple):
    """parameters: of the network. fixed: bytes whatever the microbatch. each: bytes that a picture of it adds.

    drawing: bytes on the first rank of a sharded network while samples are drawn; 0 where the network itself draws.
    """

    parameters: int
    fixed: int
    each: int
    drawing: int
    checkpoint: int

    def needed(self, microbatch: int) -> int:
        """Bytes with so many pictures at once."""
        return max(self.fixed + microbatch * self.each, self.drawing)

    def largest_microbatch(self, room: float) -> int:
        """Pictures at once in `room` bytes; 0 where not even one fits."""
        return 0 if self.drawing > room else max(0, int((room - self.fixed) / self.each))


def memory_of(config: DictConfig, *, devices: int, half: bool) -> Memory:
    """What training by this configuration needs.

    Args:
        config: a training configuration.
        devices: how many share the batch.
        half: whether activations are in half precision.
    """
    with torch.device("meta"):
        network: nn.Module = instantiate(config.backbone, _convert_="all")
    parameters = parameter_count(network)
    stored, fsdp = STORED[config.model.get("weight_dtype", "fp32")], config.parallelism.fsdp
    state = (stored.state + _average(config)) * parameters
    fixed, drawing = state + stored.autocast * parameters, 0
    if fsdp is not None:
        in_layers = [parameter_count(layer) for layer in layers(network)]
        gathered = 2 * max(in_layers) + parameters - sum(in_layers)
        share = state // (devices // (fsdp.replicas or 1))
        fixed = share + stored.autocast * parameters + GATHERED * gathered
        drawing = share + COPY * parameters if config.callbacks.get("image_logger") is not None else 0
    elif devices > 1:
        fixed += stored.bucket * parameters
    each = activation_bytes(config, half=half)
    if config.backbone.activation_checkpointing:
        each += LARGEST_LAYER * activation_bytes(without_checkpointing(config), half=half) // len(layers(network))
    return Memory(parameters, fixed, each, drawing, saved_by(config, parameters).checkpoint)
