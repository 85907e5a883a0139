"""Bytes that training needs on each device, by the formulae of `plan.py`."""

from __future__ import annotations

from typing import NamedTuple

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch._subclasses.fake_tensor import FakeTensorMode

from micro_diffusion.checkpoint import parameter_count
from micro_diffusion.performance.training_step import activation_bytes, build_model, without_checkpointing
from micro_diffusion.training.distributed.sharding import layers

AVERAGE, GATHERED, COPY, AUTOCAST = 4, 4, 4, 2
"""Bytes a parameter: average; gathered weight; weight of the copy that the first rank samples with; autocast's copy."""


WEIGHT = {"fp32": 4, "bf16": 2}
"""Bytes of one by `model.weight_dtype`; vectors, which are fp32 in any case, are too few to count."""

MOMENTS = 8
"""Bytes a parameter of AdamW's two; no optimizer here keeps more."""

LARGEST_LAYER = 3
"""Activations of the largest layer over those of the mean one, at most: of a mixer, which sees masked patches too."""


class Saved(NamedTuple):
    """Bytes that a run leaves on the disk: in each checkpoint, and as weights in the end."""

    checkpoint: int
    weights: int


def saved_by(config: DictConfig, parameters: int, trained: int | None = None) -> Saved:
    """The most that a training of so many parameters by this configuration saves, with AdamW's moments.

    trained: how many of them are not frozen; None for all. The weights of the average hold the frozen ones, too.
    """
    weight, average = WEIGHT[config.model.get("weight_dtype", "fp32")], _average(config)
    changing = parameters if trained is None else trained
    in_checkpoint = weight * parameters + (_averages(config) + MOMENTS) * changing
    return Saved(in_checkpoint, (weight + average) * parameters)


def _average(config: DictConfig) -> int:
    """Bytes a parameter of the average that a run ends with."""
    return 0 if config.algorithms.get("ema") is None else AVERAGE


def _averages(config: DictConfig) -> int:
    """Bytes a parameter of all that are kept in training."""
    others = config.algorithms.get("ema_lengths")
    return _average(config) + (0 if others is None else AVERAGE * len(others.widths))


class Memory(NamedTuple):
    """parameters: of the network. fixed: bytes whatever the microbatch. each: bytes that an image of it adds.

    sampling: bytes on the first rank of a sharded network while it samples with a copy; 0 where there is none.
    """

    parameters: int
    fixed: int
    each: int
    sampling: int
    checkpoint: int

    def needed(self, microbatch: int) -> int:
        """Bytes with so many images at once."""
        return max(self.fixed + microbatch * self.each, self.sampling)

    def largest_microbatch(self, room: float) -> int:
        """Images at once in `room` bytes; 0 where not even one fits."""
        return 0 if self.sampling > room else max(0, int((room - self.fixed) / self.each))


def memory_of(config: DictConfig, *, devices: int, half: bool) -> Memory:
    """What training by this configuration needs.

    Args:
        config: a training configuration.
        devices: how many share the batch.
        half: whether activations are in half precision.
    """
    with torch.device("meta"):
        model = build_model(config)
    network, fsdp = model.network, config.parallelism.fsdp
    parameters = parameter_count(network)
    trained = [weight for group in model.parameter_groups() for weight in group["parameters"]]  # a discriminator's too
    frozen = [weight for weight in network.parameters() if not weight.requires_grad]
    copies = sum(AUTOCAST * weight.numel() for weight in (*trained, *frozen) if weight.dtype == torch.float32)
    weights = sum(weight.nbytes for weight in trained)  # and their gradients as much
    averaged = parameters - sum(weight.numel() for weight in frozen)
    kept = weights + sum(weight.nbytes for weight in frozen) + optimizer_bytes(config) + _averages(config) * averaged
    fixed, sampling = kept + weights + copies, 0
    if fsdp is not None:
        in_layers = [parameter_count(layer) for layer in layers(network)]
        gathered = 2 * max(in_layers) + parameters - sum(in_layers)
        share = (kept + weights) // (devices // (fsdp.replicas or 1))
        fixed = share + copies + GATHERED * gathered
        sampling = share + COPY * parameters if config.callbacks.get("image_logger") is not None else 0
    elif devices > 1:
        fixed += weights  # the buckets
    each = activation_bytes(config, half=half)
    if config.get("backbone", {}).get("activation_checkpointing"):
        each += LARGEST_LAYER * activation_bytes(without_checkpointing(config), half=half) // len(layers(network))
    return Memory(parameters, fixed, each, sampling, kept)


def optimizer_bytes(config: DictConfig) -> int:
    """What the configured optimizer keeps between steps, counted by a step on tensors without data."""
    with torch.device("meta"):
        model = build_model(config)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
        groups = model.parameter_groups()
        optimizer = instantiate(config.optimizer, _convert_="all")(groups)
        for group in groups:
            for parameter in group["parameters"]:
                parameter.grad = torch.empty_like(parameter)
        optimizer.step()
    kept = [tensor for state in optimizer.state.values() for tensor in state.values()]
    return sum(_held(tensor) for tensor in kept if tensor.ndim > 0)  # the number of its step is no memory


def _held(tensor: torch.Tensor) -> int:
    """Bytes of a tensor, or of those of which it is made, as quantised ones are."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return tensor.nbytes
    names, _ = tensor.__tensor_flatten__()  # pyright: ignore[reportAttributeAccessIssue]
    return sum(getattr(tensor, name).nbytes for name in names)
