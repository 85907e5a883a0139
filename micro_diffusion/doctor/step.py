"""One step of training on real data, without the trainer."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from micro_diffusion.machine.precision import autocast
from micro_diffusion.training.seeded_random import Draws

SAMPLES_ON_CPU = 2


def check_step(config: DictConfig, device: torch.device) -> str:
    """One real batch forward and backward, as large as a microbatch on a GPU, and of two samples on a CPU."""
    microbatch = config.trainer.device_train_microbatch_size
    size = SAMPLES_ON_CPU if device.type == "cpu" or not isinstance(microbatch, int) else microbatch
    size = min(size, config.train_loader.batch_size)
    loader = instantiate(config.train_loader, batch_size=size, workers=0, _convert_="all")
    start = time.monotonic()
    with device:
        model = instantiate(config.model, _convert_="all")
    batch = model.draw(next(iter(loader)), Draws.of(config.seed, size=size))
    batch = {key: value.to(device) if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
    with autocast(device.type):
        outputs = model(batch)
    loss = model.loss(outputs, batch)
    total = loss["total"] if isinstance(loss, Mapping) else loss
    total.backward()
    if not torch.isfinite(total):
        raise ValueError(f"the loss of the first batch is {total.item()}; look at the data of train_loader.path")
    return f"loss {total.item():.3f} on {size} samples, {time.monotonic() - start:.1f} s on {device.type}"
