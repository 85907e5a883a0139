"""Training of a small autoencoder: absolute error plus Kullback–Leibler divergence, as a ComposerModel.

Legend: B batch, C latent channels, f downsampling factor, H W image height and width, h = H/f, w = W/f.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
from annotated_types import MinLen
from composer import ComposerModel
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MeanAbsoluteError, MeanMetric, Metric
from torchmetrics.image import PeakSignalNoiseRatio

from micro_diffusion.autoencoder.kl import KLAutoencoder
from micro_diffusion.backbone.backbone import ParameterGroup
from micro_diffusion.bounds import NonNegativeFloat, PositiveInt
from micro_diffusion.checkpoint import Weights, save_weights
from micro_diffusion.data.image.transforms import normalise
from micro_diffusion.machine.precision import Precision, autocast
from micro_diffusion.training.seeded_random import Draws
from micro_diffusion.training.trainable import Batch

MEASURED_BATCHES = 32
"""Shift and scaling of the latents are measured on so many batches."""


class Reconstruction(NamedTuple):
    """images: (B, 3, H, W) in about [-1, 1]. divergence: (B,), in nats per latent entry."""

    images: Tensor
    divergence: Tensor


class AutoencoderTraining(ComposerModel):
    """Mean absolute error of the images plus weighted divergence of the latents from a standard normal.

    Args:
        autoencoder: the network to train.
        kl_weight: of the divergence in nats per latent entry, against the error of a pixel in [-1, 1]. It decides how
            much noise the latents bear without visible change, and so how exact a diffusion model has to be.
        crop: side of the random crops in pixels; smaller images are taken whole.
        shrink: each step shrinks its images by one of these factors before cropping, so that small images are
            reconstructed as well as large ones.
        cpu_precision: of the network on a CPU, where Composer knows fp32 only; "auto" is bf16 where that is fast.

    Raises:
        ValueError: for a crop that is no multiple of f.
    """

    def __init__(
        self,
        *,
        autoencoder: KLAutoencoder,
        kl_weight: NonNegativeFloat,
        crop: PositiveInt,
        shrink: Annotated[Sequence[PositiveInt], MinLen(1)],
        cpu_precision: Precision,
    ) -> None:
        super().__init__()
        if crop % autoencoder.downsampling:
            raise ValueError(f"model.crop is {crop}; set it to a positive multiple of {autoencoder.downsampling}")
        self.network: KLAutoencoder = autoencoder
        self.kl_weight = kl_weight
        self.crop = crop
        self.shrink = list(shrink)
        self.cpu_precision: Precision = cpu_precision
        self.metrics: dict[str, Metric] = {
            "l1": MeanAbsoluteError(),
            "psnr": PeakSignalNoiseRatio(data_range=2.0, dim=(1, 2, 3)),
            "kl": MeanMetric(),
        }

    def parameter_groups(self) -> list[ParameterGroup]:
        """Convolution kernels, which decay, and biases, which do not."""
        kernels = [p for p in self.network.parameters() if p.ndim > 1]
        biases = [p for p in self.network.parameters() if p.ndim <= 1]
        return [
            {"name": "kernels", "parameters": kernels, "lr_scale": 1.0, "decay": True, "matrices": False},
            {"name": "biases", "parameters": biases, "lr_scale": 1.0, "decay": False, "matrices": False},
        ]

    def draw(self, batch: Batch, draws: Draws) -> Batch:
        """Shrinks, crops and mirrors the images, and adds noise (B, C, h, w), in a new batch."""
        factor = self.shrink[int(torch.randint(len(self.shrink), (), generator=draws.shared))]
        images = _shrunk(batch["images"], factor)
        images = torch.stack([self._crop_and_mirror(*pair) for pair in zip(images, draws.samples, strict=True)])
        return {**batch, "images": images, "noise": self._noise(images, draws)}

    def draw_eval(self, batch: Batch, draws: Draws) -> Batch:
        """Adds noise (B, C, h, w); the images stay whole."""
        return {**batch, "noise": self._noise(batch["images"], draws)}

    def forward(self, batch: Batch) -> Reconstruction:
        """A batch with its random numbers drawn -> reconstructions from one draw of the posterior."""
        originals = normalise(batch["images"])
        with autocast("cpu", self.cpu_precision) if originals.device.type == "cpu" else nullcontext():
            mean, logvar = (moment.float() for moment in self.network.posterior(originals))
            images = self.network.reconstruct(mean + (logvar / 2).exp() * batch["noise"])
        divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean(dim=(1, 2, 3))
        return Reconstruction(images.float(), divergence)

    def loss(self, outputs: Reconstruction, batch: Batch) -> dict[str, Tensor]:
        """The two terms, and their weighted sum as "total"."""
        l1 = F.l1_loss(outputs.images, normalise(batch["images"]))
        kl = outputs.divergence.mean()
        return {"total": l1 + self.kl_weight * kl, "l1": l1, "kl": kl}

    def eval_forward(self, batch: Batch, outputs: Reconstruction | None = None) -> Reconstruction:
        """Reconstructions, clamped as `decode` does."""
        images, divergence = self(batch) if outputs is None else outputs
        return Reconstruction(images.clamp(-1, 1), divergence)

    def get_metrics(self, is_train: bool = False) -> dict[str, Metric]:
        """Evaluation metrics; training reports its loss by itself."""
        return {} if is_train else self.metrics

    def update_metric(self, batch: Batch, outputs: Reconstruction, metric: Metric) -> None:
        """Count the reconstructions of a batch."""
        if isinstance(metric, MeanMetric):
            metric.update(outputs.divergence)
        else:
            metric.update(outputs.images.contiguous(), normalise(batch["images"]))

    def save(self, folder: Path, weights: Weights, state: dict[str, Tensor], batches: Iterable[Batch]) -> None:
        """Write the weights for a later run, and `folder/autoencoder` with shift and scaling measured.

        Averaged weights are saved after the raw ones and take their place in `folder/autoencoder`.
        """
        device = self.network.shift.device
        drawn = (
            self.draw(batch, Draws.of("scale", number, size=len(batch["images"])))["images"]
            for number, batch in enumerate(islice(batches, MEASURED_BATCHES))
        )
        self.network.measure_scale(normalise(images.to(device)) for images in drawn)
        save_weights(folder, {**state, **dict(self.network.named_buffers())}, weights)
        self.network.save(folder / "autoencoder")

    def _crop_and_mirror(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """(3, H, W) -> (3, min(H, crop), min(W, crop)), each down to a multiple of f."""
        for axis in (1, 2):
            length = image.shape[axis]
            kept = min(length - length % self.network.downsampling, self.crop)
            start = int(torch.randint(length - kept + 1, (), generator=generator))
            image = image.narrow(axis, start, kept)
        return image.flip(2) if torch.rand((), generator=generator) < 0.5 else image

    def _noise(self, images: Tensor, draws: Draws) -> Tensor:
        return draws.normal(self.network.channels, *(side // self.network.downsampling for side in images.shape[-2:]))


def _shrunk(images: Tensor, factor: int) -> Tensor:
    """(B, 3, H, W) uint8 -> (B, 3, H // factor, W // factor) uint8, each pixel the mean of those that it covers."""
    return images if factor == 1 else F.avg_pool2d(images.float(), factor).round().to(torch.uint8)
