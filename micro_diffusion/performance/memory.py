"""Bytes that training needs on each device, by the formulae of `plan.py`."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from micro_diffusion.checkpoint import parameter_count
from micro_diffusion.performance.training_step import activation_bytes
from micro_diffusion.training.sharding import layers

STATE, AVERAGE, AUTOCAST, BUCKETS, GATHERED, COPY = 16, 4, 2, 4, 4, 4
"""Bytes a parameter: fp32 weight, gradient and two moments; average; bf16 copy; DDP's bucket; gathered weight; weight
of the copy that the first rank draws with."""

LARGEST_LAYER = 3
"""Activations of the largest layer over those of the mean one, at most: of a mixer, which sees hidden patches too."""


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
    average = AVERAGE * parameters if "ema" in config.algorithms else 0
    state, fsdp = STATE * parameters + average, config.parallelism.fsdp
    fixed, drawing = state + AUTOCAST * parameters, 0
    if fsdp is not None:
        in_layers = [parameter_count(layer) for layer in layers(network)]
        gathered = 2 * max(in_layers) + parameters - sum(in_layers)
        share = state // (devices // (fsdp.replicas or 1))
        fixed = share + AUTOCAST * parameters + GATHERED * gathered
        drawing = share + COPY * parameters if "image_logger" in config.callbacks else 0
    elif devices > 1:
        fixed += BUCKETS * parameters
    each = activation_bytes(config, half=half)
    if config.backbone.activation_checkpointing:
        kept = OmegaConf.merge(config, {"backbone": {"activation_checkpointing": False}})
        each += LARGEST_LAYER * activation_bytes(cast(DictConfig, kept), half=half) // len(layers(network))
    return Memory(parameters, fixed, each, drawing, 12 * parameters + average)
