"""Generating latents without encoders, and what it costs.

Legend: B images.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import cast

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from micro_diffusion.backbone.backbone import Backbone, Prediction
from micro_diffusion.backbone.class_token import noise_shape
from micro_diffusion.condition import Condition
from micro_diffusion.machine.precision import Precision, autocast
from micro_diffusion.performance.training_step import random_batch
from micro_diffusion.sampling.guidance import guided_denoiser


class Unprepared(nn.Module):
    """A backbone that does all its work at every call: the plain way, to compare with."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, level: Tensor, text: Condition, keep: Tensor | None = None) -> Prediction:
        """As the network itself."""
        return self.network(x, level, text, keep)


class Generation:
    """Latents of B images from random captions, by a configured network and sampler.

    Args:
        config: a training configuration.
        batch_size: B.
        guidance_scale: as for `guided_denoiser`.
        device: where the network is; on "meta" nothing is computed, only counted.
        precision: of the network's matrix products.
        compile: whether to compile the network, as one graph.
        prepare: whether to do the work on captions once a run, rather than at every network call.
    """

    def __init__(
        self,
        *,
        config: DictConfig,
        batch_size: int,
        guidance_scale: float,
        device: torch.device,
        precision: Precision,
        compile: bool = False,
        prepare: bool = True,
    ) -> None:
        with device:
            self.network = network = instantiate(config.backbone, _convert_="all").eval()
        if compile:
            network.compile(fullgraph=True)
        self.backbone = cast(Backbone, network if prepare else Unprepared(network))
        self.objective, self.sampler = instantiate(config.objective), instantiate(config.sampler)
        self.guidance_scale, self.device = guidance_scale, device
        self.precision: Precision = precision
        batch = random_batch(config, batch_size)
        size = (batch["latents"].shape[2], batch["latents"].shape[3])
        generator = torch.Generator().manual_seed(0)
        self.noise = torch.randn(batch_size, *noise_shape(network, size), generator=generator).to(device)
        cells = (batch_size, network.image_channels, *size)
        self.condition = Condition(
            batch["caption_tokens"].to(device),
            image=torch.ones(cells, device=device) if network.image_channels else None,
            image_level=torch.ones(batch_size, device=device) if network.takes_image_level else None,
        )

    @torch.no_grad()
    def __call__(self) -> Tensor:
        """Latents of B images."""
        objective = self.objective
        with nullcontext() if self.device.type == "meta" else autocast(self.device.type, self.precision):
            sigmas = self.sampler.sigmas(sigma_min=objective.sigma_min, sigma_max=objective.sigma_max)
            asked = self.sampler.asked(sigmas)
            denoiser = guided_denoiser(objective, self.backbone, self.condition, self.guidance_scale, sigmas=asked)
            return self.sampler(denoiser, self.noise, sigmas=sigmas, generators=None)
