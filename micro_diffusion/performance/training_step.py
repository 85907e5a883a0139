"""A training step without data or trainer, and what it costs for one image.

Legend: B batch, C latent channels, h w latent cells, L caption tokens, D caption width.
"""

from __future__ import annotations

from typing import cast

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch._subclasses.fake_tensor import FakeTensorMode

from micro_diffusion.machine.precision import Precision, autocast
from micro_diffusion.performance.counting import count_flops, count_saved_bytes
from micro_diffusion.training.autoencoder_training import AutoencoderTraining
from micro_diffusion.training.latent_diffusion import LatentDiffusion
from micro_diffusion.training.optimizers.gradient_clipping import clip_gradients
from micro_diffusion.training.seeded_random import Draws
from micro_diffusion.training.trainable import Batch

Model = LatentDiffusion | AutoencoderTraining
LATE = 2**31
"""A step of training when everything that begins some time has begun."""


class TrainingStep:
    """Forward, backward, clipping and optimizer step of a configured model on random latents and captions, or images.

    Args:
        config: a training configuration.
        batch_size: B.
        device: where the model is.
        precision: of the network's matrix products.
        compile: whether to compile the network, as one graph.
    """

    def __init__(
        self, *, config: DictConfig, batch_size: int, device: torch.device, precision: Precision, compile: bool
    ) -> None:
        self.device = device
        self.precision: Precision = precision
        self.model = build_model(config).to(device).train()
        self.model.cpu_precision = precision
        if compile:
            self.model.network.compile(fullgraph=True)
        self.optimizer = instantiate(config.optimizer, _convert_="all")(self.model.parameter_groups())
        self.batch, self.batch_size = random_batch(config, batch_size), batch_size
        self.steps = 0

    def __call__(self) -> torch.Tensor:
        """One step -> its loss, on the device."""
        loss = self.backward()
        self.update()
        return loss

    def backward(self) -> torch.Tensor:
        """Forward and backward of the batch -> its loss; gradients add to those that are there."""
        draws = Draws.of(self.steps, size=self.batch_size, step=LATE)
        drawn = moved(self.model.draw(self.batch, draws), self.device)
        with autocast(self.device.type, self.precision):
            loss = total_loss(self.model, drawn)
        loss.backward()
        return loss.detach()

    def update(self) -> None:
        """Clipping and optimizer step, which a batch takes once, however many microbatches it has."""
        clip_gradients(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps += 1


def build_model(config: DictConfig) -> Model:
    """The model of a training configuration, without the weights of LPIPS.

    Raises:
        ValueError: when it is of an unknown kind.
    """
    model = instantiate(config.model, _convert_="all")
    if not isinstance(model, Model):
        raise ValueError(
            f"model._target_ is {config.model._target_}; choose a stage that trains LatentDiffusion or "
            "AutoencoderTraining"
        )
    if (perceptual := getattr(model, "perceptual", None)) is not None:
        perceptual.load_without_weights()
    return model


def total_loss(model: Model, batch: Batch) -> torch.Tensor:
    """The loss of a batch with its random numbers, ()."""
    loss = model.loss(model(batch), batch)
    return loss["total"] if isinstance(loss, dict) else loss


def moved(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on a device."""
    return {
        key: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
        for key, value in batch.items()
    }


def random_batch(config: DictConfig, size: int) -> Batch:
    """Latents (B, C, h, w) and captions (B, L, D), B = `size`, as a loader of this configuration would yield them.

    For an autoencoder images (B, 3, H, H).
    """
    generator = torch.Generator().manual_seed(0)
    if "backbone" not in config:
        return {"images": torch.randint(256, (size, 3, *[config.resolution] * 2), generator=generator).to(torch.uint8)}
    backbone, length = config.backbone, config.text_encoder.max_length
    cells = [backbone.input_size] * 2 if isinstance(backbone.input_size, int) else list(backbone.input_size)
    return {
        "latents": torch.randn(size, backbone.in_channels, *cells, generator=generator),
        "caption_tokens": torch.randn(size, length, backbone.caption_dim, generator=generator),
        "caption_mask": torch.ones(size, length, dtype=torch.bool),
    }


def training_flops(config: DictConfig, *, recomputed: bool = False, progress: float = 0.0) -> int:
    """Floating-point operations of forward and backward for one image, counted, not estimated.

    Args:
        config: a training configuration.
        recomputed: whether what activation checkpointing computes a second time counts twice, as it does in the time
            and in hardware utilisation, not in MFU (Chowdhery et al. 2022, "PaLM", appendix B).
        progress: the share of the training that is done, where masking depends on it.
    """
    with torch.device("meta"):
        model = build_model(config if recomputed else without_checkpointing(config)).train()
    batch = moved(_drawn(model, config, 1, progress), torch.device("meta"))
    return count_flops(lambda: total_loss(model, batch).backward())


def update_flops(config: DictConfig) -> int:
    """Floating-point operations in the matrix products of one optimizer step, which Muon has and AdamW has not."""
    with torch.device("meta"):
        model = build_model(config)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")  # tensors without data, on a device for which there are fused optimizers
        optimizer = instantiate(config.optimizer, _convert_="all")(model.parameter_groups())
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter)
        return count_flops(optimizer.step)


def without_checkpointing(config: DictConfig) -> DictConfig:
    """The same training, in which activations are kept rather than computed again."""
    if "backbone" not in config:
        return config
    return cast(DictConfig, OmegaConf.merge(config, {"backbone": {"activation_checkpointing": False}}))


def activation_bytes(config: DictConfig, *, half: bool = False) -> int:
    """Bytes that each image of a microbatch adds to what a forward pass keeps, in fp32 or half precision."""
    with torch.device("meta"):
        model = build_model(config).train()
    one, two = (_drawn(model, config, size) for size in (1, 2))
    # fp16 stands in for a GPU's bf16, of the same size: attention in bf16 is done otherwise on a CPU than on a GPU
    model.cpu_autocast = lambda device: torch.autocast("cpu", torch.float16, enabled=half)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        model.to_empty(device="cpu")  # tensors without data that choose the kernels of real ones
        _keep_shapes_alone(model)

        def saved(batch: Batch) -> int:
            fake = {
                key: mode.from_tensor(value) if isinstance(value, torch.Tensor) else value
                for key, value in batch.items()
            }
            return count_saved_bytes(lambda: total_loss(model, fake), model)

        return saved(two) - saved(one)


def _keep_shapes_alone(model: Model) -> None:
    """Have networks that are no modules of the model without data too, and the loss do without what needs values."""
    if isinstance(model, LatentDiffusion):
        for network in model.frozen:
            network.to_empty(device="cpu")
        return
    if model.perceptual is not None:
        model.perceptual.load().to_empty(device="cpu")
    if model.adversarial is not None:  # its adaptive weight keeps nothing for the backward pass
        model.adversarial.adaptive = False


def _drawn(model: Model, config: DictConfig, size: int, progress: float = 0.0) -> Batch:
    """A random batch with its random numbers."""
    return model.draw(random_batch(config, size), Draws.of(0, size=size, step=LATE, progress=progress))
