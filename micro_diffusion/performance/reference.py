"""The public MicroDiT code in a clone of its own, doing the same work: to compare speed and memory with.

Nothing of it is part of this package: `import_public_code` imports the clone of github.com/SonyResearch/micro_diffusion
that its caller names. Besides this package's requirements it wants `easydict` and `timm`.
Legend: B batch, C latent channels, h w latent cells.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from micro_diffusion.machine.precision import Precision, autocast
from micro_diffusion.performance.training_step import random_batch

NETWORKS = {"tiny": "MicroDiT_Tiny_2", "xl": "MicroDiT_XL_2"}
"""Names of configs/backbone and of the public code."""

MODELS = Path("micro_diffusion", "models")

PACKAGE = "public_microdit"
"""Under which the clone's `micro_diffusion.models` is imported, since its own name is ours."""


def check_public_code(folder: Path, backbone: str) -> None:
    """Raise FileNotFoundError when the folder is no clone, ValueError for a size that the public code does not have."""
    model = folder / MODELS / "model.py"
    if not model.is_file():
        raise FileNotFoundError(f"there is no {model}; give --reference a clone of the public MicroDiT")
    if backbone not in NETWORKS:
        raise ValueError(f"the public code has no size {backbone}; choose --backbone {' or '.join(NETWORKS)}")


def import_public_code(folder: Path) -> tuple[ModuleType, ModuleType]:
    """The clone's modules of model and network."""
    package = ModuleType(PACKAGE)
    package.__path__ = [str(folder / MODELS)]
    sys.modules[PACKAGE] = package
    model, network = (importlib.import_module(f"{PACKAGE}.{name}") for name in ("model", "dit"))
    return model, network


class NoEncoder(nn.Module):
    """Stands where the public model wants an autoencoder or a text encoder; it has no weights and is never called."""

    config = SimpleNamespace(scaling_factor=1.0)


def public_model(folder: Path, config: DictConfig, backbone: str) -> Any:
    """The public model of this size, in training mode, for the configuration's resolution.

    Weights that its initialisation leaves at zero become small random numbers, so that every part has work to do.
    """
    model, networks = import_public_code(folder)
    cells, scale = config.backbone.input_size, config.backbone.position_scale
    network = getattr(networks, NETWORKS[backbone])(
        input_size=cells, pos_interp_scale=scale, in_channels=config.backbone.in_channels
    )
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if not parameter.detach().any():
            nn.init.normal_(parameter, std=0.02, generator=generator)
    encoders = {"vae": NoEncoder(), "text_encoder": NoEncoder(), "tokenizer": None}
    edm = {"p_mean": config.objective.P_mean, "p_std": config.objective.P_std}
    ratio = config.model.train_mask_ratio
    return model.LatentDiffusion(dit=network, **encoders, **edm, latent_res=cells, train_mask_ratio=ratio).train()


class ReferenceTrainingStep:
    """The public training step: its loss, its optimizer (`torch.optim.AdamW`), and the clipping that Composer does.

    Args:
        model: of `public_model`.
        config: a training configuration.
        batch_size: B.
        device: where the model is.
        precision: of the network's matrix products.
    """

    def __init__(
        self, *, model: Any, config: DictConfig, batch_size: int, device: torch.device, precision: Precision
    ) -> None:
        self.device, self.model = device, model.to(device)
        self.precision: Precision = precision
        adamw = config.optimizer
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=adamw.lr,
            betas=tuple(adamw.betas),
            eps=adamw.eps,
            weight_decay=adamw.weight_decay,
        )
        batch = random_batch(config, batch_size)
        self.batch = {
            "image_latents": batch["latents"].to(device),
            "caption_latents": batch["caption_tokens"][:, None].to(device),
        }

    def __call__(self) -> Tensor:
        """One step -> its loss."""
        with autocast(self.device.type, self.precision):
            loss = self.model.loss(self.model(dict(self.batch)), self.batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), max_norm=1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()


class ReferenceDrawing:
    """The public sampler (Heun) on the noise and captions of our `Generation`.

    Args:
        model: of `public_model`.
        config: a training configuration.
        batch_size: B.
        steps: noise levels above zero.
        guidance_scale: strength of guidance, above 1.
        device: where the model is.
        precision: of the network's matrix products.
    """

    def __init__(
        self,
        *,
        model: Any,
        config: DictConfig,
        batch_size: int,
        steps: int,
        guidance_scale: float,
        device: torch.device,
        precision: Precision,
    ) -> None:
        self.model, self.device = model.to(device).eval(), device
        batch = random_batch(config, batch_size)
        self.noise, self.captions = batch["latents"].to(device), batch["caption_tokens"][:, None].to(device)
        self.steps, self.guidance_scale = steps, guidance_scale
        self.precision: Precision = precision

    def __call__(self) -> Tensor:
        """Latents (B, C, h, w)."""
        with autocast(self.device.type, self.precision):
            return self.model.edm_sampler_loop(self.noise, self.captions, self.steps, cfg=self.guidance_scale)
