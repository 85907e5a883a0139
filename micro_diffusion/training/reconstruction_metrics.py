"""What an evaluation measures of reconstructions and latents. Legend: B images, C latent channels, h w latent cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import MeanAbsoluteError, MeanMetric, Metric
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

from micro_diffusion.autoencoder.perceptual import Perceptual


class Reconstruction(NamedTuple):
    """images: (B, 3, H, W), about [-1, 1]. divergence: (B,), nats per latent entry. latents: (B, C, h, w), unscaled."""

    images: Tensor
    divergence: Tensor
    latents: Tensor


class PerImage(MeanMetric):
    """Mean over images of what a function makes of them.

    Args:
        measure: reconstructions of B images, and their originals (B, 3, H, W) in [-1, 1] -> (B,).
    """

    def __init__(self, measure: Callable[[Reconstruction, Tensor], Tensor]) -> None:
        super().__init__()
        self.measure = measure

    def update(self, reconstruction: Reconstruction, originals: Tensor) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Count a batch."""
        super().update(self.measure(reconstruction, originals))


class ChannelMoment(Metric):
    """Mean or standard deviation of the unscaled latents in one channel.

    Args:
        channel: from 0.
        deviation: the standard deviation instead of the mean.
    """

    full_state_update = False
    sums: Tensor

    def __init__(self, channel: int, *, deviation: bool) -> None:
        super().__init__()
        self.channel, self.deviation = channel, deviation
        self.add_state("sums", torch.zeros(3, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, reconstruction: Reconstruction, originals: Tensor) -> None:
        """Count a batch."""
        values = reconstruction.latents[:, self.channel].double()
        count = torch.tensor(values.numel(), device=values.device)
        self.sums += torch.stack([count, values.sum(), values.square().sum()])

    def compute(self) -> Tensor:
        """The moment, ()."""
        count, total, squares = self.sums.unbind()
        mean = total / count
        return ((squares / count - mean.square()).clamp_min(0).sqrt() if self.deviation else mean).float()


def reconstruction_metrics(channels: int, perceptual: Perceptual | None, rfid: Metric | None) -> dict[str, Metric]:
    """Metrics by name, each of a reconstruction and its originals; LPIPS and rFID where there is a network for them."""
    metrics: dict[str, Metric] = {
        "l1": MeanAbsoluteError(),
        "psnr": PeakSignalNoiseRatio(data_range=2.0, dim=(1, 2, 3)),
        "ssim": StructuralSimilarityIndexMeasure(data_range=2.0),
        "kl": PerImage(lambda reconstruction, originals: reconstruction.divergence),
    }
    if perceptual is not None:
        metrics["lpips"] = PerImage(lambda reconstruction, originals: perceptual(reconstruction.images, originals))
    if rfid is not None:
        metrics["rfid"] = rfid
    for channel in range(channels):
        metrics[f"latent_mean_{channel}"] = ChannelMoment(channel, deviation=False)
        metrics[f"latent_std_{channel}"] = ChannelMoment(channel, deviation=True)
    return metrics


def count(metric: Metric, reconstruction: Reconstruction, originals: Tensor) -> None:
    """Give a batch to one of the metrics."""
    if isinstance(metric, PerImage | ChannelMoment):
        metric.update(reconstruction, originals)
    else:
        metric.update(reconstruction.images.contiguous(), originals)
