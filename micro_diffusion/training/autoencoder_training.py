"""Training of an autoencoder, adversarial from a step on, as one ComposerModel with one optimizer.

loss = likelihood + frequency + kl_weight·KL + adversarial + discriminator, each left out where it is not asked for.
Autoencoder and discriminator learn in the same backward pass: the discriminator's loss sees detached reconstructions,
and the adversarial one a discriminator whose weights are constants, so that neither leaves a gradient in the other.

Legend: B batch, C latent channels, f downsampling factor, H W image height and width, h = H/f, w = W/f.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated

import torch
from annotated_types import MinLen
from composer import ComposerModel, State, TimeUnit
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric

from micro_diffusion.autoencoder.adversarial import Adversarial, adaptive_weight
from micro_diffusion.autoencoder.gaussian import GaussianAutoencoder
from micro_diffusion.autoencoder.losses import (
    FocalFrequency,
    PixelLoss,
    negative_log_likelihood,
    pixel_loss,
)
from micro_diffusion.autoencoder.perceptual import Perceptual
from micro_diffusion.backbone.backbone import ParameterGroup, parameter_group
from micro_diffusion.bounds import NonNegativeFloat, PositiveInt
from micro_diffusion.checkpoint import Weights, save_weights
from micro_diffusion.data.image.transforms import normalise
from micro_diffusion.files.whole_file import whole_file
from micro_diffusion.machine.precision import Precision
from micro_diffusion.training.reconstruction_metrics import Reconstruction, count, reconstruction_metrics
from micro_diffusion.training.seeded_random import Draws
from micro_diffusion.training.trainable import Batch, NetworkOnCpu

MEASURED_BATCHES = 32
"""Shift and scaling of the latents are measured on so many batches."""


class AutoencoderTraining(NetworkOnCpu, ComposerModel):
    """Error of the reconstructions plus weighted divergence of the latents from a standard normal, and further terms.

    All terms are means over samples, so that microbatches and ranks add up to the batch; only the adaptive weight of
    `adversarial` is each microbatch's own.

    Args:
        autoencoder: the network to train.
        kl_weight: of the divergence in nats per latent entry, against the error of a pixel in [-1, 1]. It decides how
            much noise the latents bear without visible change, and so how exact a diffusion model has to be.
        crop: side of the random crops in pixels, at most that of the images.
        shrink: each step shrinks its images by one of these factors before cropping, so that small images are
            reconstructed as well as large ones; those that then are smaller than the crop are taken whole.
        cpu_precision: of the networks on a CPU, where Composer knows fp32 only; "auto" is bf16 where that is faster.
        reconstruction: error of a pixel: "l1", "l2" or "huber".
        perceptual: LPIPS, added to the error of a pixel with its own weight, and measured by evaluations.
        frequency: the focal frequency loss, added with its own weight.
        log_variance: s of the likelihood error / e^s + s.
        train_log_variance: learn s, beginning with that.
        adversarial: a discriminator and what its judgement is worth.
        rfid: a distance of sets of images, measured by evaluations.

    Raises:
        ValueError: for a crop that is no multiple of f.
    """

    def __init__(
        self,
        *,
        autoencoder: GaussianAutoencoder,
        kl_weight: NonNegativeFloat,
        crop: PositiveInt,
        shrink: Annotated[Sequence[PositiveInt], MinLen(1)],
        cpu_precision: Precision,
        reconstruction: PixelLoss = "l1",
        perceptual: Perceptual | None = None,
        frequency: FocalFrequency | None = None,
        log_variance: float = 0.0,
        train_log_variance: bool = False,
        adversarial: Adversarial | None = None,
        rfid: Metric | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(autoencoder, GaussianAutoencoder):
            name = type(autoencoder).__name__
            raise ValueError(f"autoencoder is a {name}, which cannot be trained; choose kl_f4, ldm_f8 or sdxl_decoder")
        if crop % autoencoder.downsampling:
            raise ValueError(f"model.crop is {crop}; set it to a positive multiple of {autoencoder.downsampling}")
        self.network: nn.Module = autoencoder
        self.kl_weight = kl_weight
        self.crop = crop
        self.shrink = list(shrink)
        self.cpu_precision: Precision = cpu_precision
        self.reconstruction: PixelLoss = reconstruction
        self.perceptual = perceptual
        self.frequency = frequency
        self.log_variance = nn.Parameter(torch.tensor(log_variance)) if train_log_variance else log_variance
        self.adversarial = adversarial
        self.metrics: dict[str, Metric] = reconstruction_metrics(autoencoder.channels, perceptual, rfid)

    @property
    def autoencoder(self) -> GaussianAutoencoder:
        """The network under its own name."""
        return self.network  # pyright: ignore[reportReturnType]

    def parameter_groups(self) -> list[ParameterGroup]:
        """Convolution kernels, which decay, and biases, which do not; apart from them the discriminator.

        The discriminator does not decay, so that it keeps its first weights until it learns.
        """
        groups = _groups("", self.network, decay=True, lr_scale=1.0)
        if self.adversarial is not None:
            groups += _groups("discriminator_", self.adversarial, decay=False, lr_scale=self.adversarial.lr_scale)
        if isinstance(s := self.log_variance, nn.Parameter):
            groups.append(parameter_group("log_variance", [s], decay=False))
        return groups

    def check_run(self, state: State) -> None:
        """Look, before the first step of a training, at what its later ones need.

        Raises:
            ValueError: when the discriminator starts after the end, or LPIPS's weights are of another network.
            FileNotFoundError: when these are not there.
        """
        if self.perceptual is not None:
            self.perceptual.load()
        end, epoch = state.max_duration, state.dataloader_len
        if self.adversarial is None or end is None or end.unit not in (TimeUnit.BATCH, TimeUnit.EPOCH):
            return
        if end.unit == TimeUnit.EPOCH and epoch is None:
            return
        steps = end.value * (epoch.value if end.unit == TimeUnit.EPOCH and epoch is not None else 1)
        if self.adversarial.start >= steps:
            raise ValueError(
                f"model.adversarial.start is {self.adversarial.start}, but training ends after {steps} steps; start "
                "earlier, or leave the discriminator out with model.adversarial=null"
            )

    def draw(self, batch: Batch, draws: Draws) -> Batch:
        """Shrinks, crops and mirrors the images, and adds noise (B, C, h, w) and the step, in a new batch.

        Raises:
            ValueError: for images that are smaller than the crop, or that the networks of the loss do not take.
        """
        height, width = batch["images"].shape[-2:]
        if self.crop > min(height, width):
            raise ValueError(
                f"model.crop is {self.crop}, but an image has {height}×{width} pixels; set model.crop to at most "
                f"{min(height, width)}, or resolution to at least {self.crop}"
            )
        factor = self.shrink[int(torch.randint(len(self.shrink), (), generator=draws.shared))]
        images = _shrunk(batch["images"], factor)
        images = torch.stack([self._crop_and_mirror(*pair) for pair in zip(images, draws.samples, strict=True)])
        self._check_size(min(images.shape[-2:]), factor)
        return {**batch, "images": images, "noise": self._noise(images, draws), "step": [draws.step] * len(images)}

    def draw_eval(self, batch: Batch, draws: Draws) -> Batch:
        """Adds noise (B, C, h, w); the images stay whole."""
        return {**batch, "noise": self._noise(batch["images"], draws)}

    def forward(self, batch: Batch) -> Reconstruction:
        """A batch with its random numbers drawn -> reconstructions from one draw of the posterior."""
        originals = normalise(batch["images"])
        with self.cpu_autocast(originals.device):
            mean, logvar = (moment.float() for moment in self.autoencoder.posterior(originals))
            latents = mean + (logvar / 2).exp() * batch["noise"]
            images = self.autoencoder.reconstruct(latents)
        divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean(dim=(1, 2, 3))
        return Reconstruction(images.float(), divergence, latents.detach())

    def loss(self, outputs: Reconstruction, batch: Batch) -> dict[str, Tensor]:
        """The terms, and their weighted sum as "total"."""
        originals = normalise(batch["images"])
        with self.cpu_autocast(originals.device):
            terms, likeness = self._likeness(outputs.images, originals)
            terms["kl"] = outputs.divergence.mean()
            total = likeness + self.kl_weight * terms["kl"]
            if self.adversarial is not None:
                game, addition = self._game(self.adversarial, outputs.images, originals, likeness, batch["step"][0])
                terms, total = terms | game, total + addition
        return {"total": total, **terms}

    def _likeness(self, images: Tensor, originals: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The terms that draw reconstructions towards their originals, and their weighted sum."""
        error = pixel_loss(self.reconstruction, images, originals)
        terms = {self.reconstruction: error}
        if self.perceptual is not None and self.perceptual.weight:
            terms["lpips"] = self.perceptual(images, originals).mean()
            error = error + self.perceptual.weight * terms["lpips"]
        likeness = negative_log_likelihood(error, self.log_variance)
        if isinstance(self.log_variance, nn.Parameter):
            terms["log_variance"] = self.log_variance
        if self.frequency is not None:
            terms["frequency"] = self.frequency(images, originals)
            likeness = likeness + self.frequency.weight * terms["frequency"]
        return terms, likeness

    def _game(
        self, adversarial: Adversarial, images: Tensor, originals: Tensor, likeness: Tensor, step: int
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The terms of both players at a step, and what they add to the loss."""
        if step < adversarial.first_lesson:
            return {}, adversarial.silence()
        judgement = adversarial.judge(images, originals)
        terms = {"discriminator": judgement.loss, "logits_real": judgement.real, "logits_fake": judgement.fake}
        if step < adversarial.start:
            return terms, judgement.loss
        terms["adversarial"] = adversarial.generator_loss(images)
        weight = torch.tensor(adversarial.weight, device=images.device)
        if adversarial.adaptive:
            weight = weight * adaptive_weight(likeness, terms["adversarial"], self.autoencoder.last_layer)
        terms["adversarial_weight"] = weight
        return terms, judgement.loss + weight * terms["adversarial"]

    def eval_forward(self, batch: Batch, outputs: Reconstruction | None = None) -> Reconstruction:
        """Reconstructions, clamped as `decode` does."""
        made: Reconstruction = self(batch) if outputs is None else outputs
        return made._replace(images=made.images.clamp(-1, 1))

    def get_metrics(self, is_train: bool = False) -> dict[str, Metric]:
        """Evaluation metrics; training reports its loss by itself."""
        return {} if is_train else self.metrics

    def update_metric(self, batch: Batch, outputs: Reconstruction, metric: Metric) -> None:
        """Count the reconstructions of a batch."""
        count(metric, outputs, normalise(batch["images"]))

    def save(self, folder: Path, weights: Weights, state: dict[str, Tensor], batches: Iterable[Batch]) -> None:
        """Write the weights for a later run, and `folder/autoencoder` with shift and scaling measured.

        Averaged weights are saved after the raw ones and take their place in `folder/autoencoder`. The discriminator
        is for training alone, and stays in its checkpoints. `latents.json` says what was measured.
        """
        network = self.autoencoder
        drawn = (
            self.draw(batch, Draws.of("scale", number, size=len(batch["images"])))["images"]
            for number, batch in enumerate(islice(batches, MEASURED_BATCHES))
        )
        network.measure_scale(normalise(images.to(network.shift.device)) for images in drawn)
        save_weights(folder, {**state, **dict(self.network.named_buffers())}, weights)
        network.save(folder / "autoencoder")
        measured = {"weights": weights, "mean": network.shift.tolist(), "std": (1 / network.scaling).tolist()}
        with whole_file(folder / "autoencoder" / "latents.json") as unfinished:
            unfinished.write_text(json.dumps(measured, indent=2) + "\n")

    def _check_size(self, side: int, factor: int) -> None:
        """Raise ValueError when crops of this side are too small for the discriminator or LPIPS."""
        smallest = {
            "the discriminator": 0 if self.adversarial is None else self.adversarial.discriminator.smallest,
            "LPIPS": 0 if self.perceptual is None else self.perceptual.smallest,
        }
        for name, least in smallest.items():
            if side < least:
                raise ValueError(
                    f"crops of {side} pixels, shrunk by {factor}, are too small for {name}, which takes {least} or "
                    "more; raise model.crop, or leave that factor out of model.shrink"
                )

    def _crop_and_mirror(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """(3, H, W) -> (3, min(H, crop), min(W, crop)), each down to a multiple of f."""
        for axis in (1, 2):
            length = image.shape[axis]
            kept = min(length - length % self.autoencoder.downsampling, self.crop)
            start = int(torch.randint(length - kept + 1, (), generator=generator))
            image = image.narrow(axis, start, kept)
        return image.flip(2) if torch.rand((), generator=generator) < 0.5 else image

    def _noise(self, images: Tensor, draws: Draws) -> Tensor:
        factor = self.autoencoder.downsampling
        return draws.normal(self.autoencoder.channels, *(side // factor for side in images.shape[-2:]))


def _groups(prefix: str, network: nn.Module, *, decay: bool, lr_scale: float) -> list[ParameterGroup]:
    """Kernels, which may decay, and vectors, which never do."""
    trained = [p for p in network.parameters() if p.requires_grad]
    kernels, biases = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim <= 1]
    return [
        parameter_group(f"{prefix}kernels", kernels, lr_scale=lr_scale, decay=decay),
        parameter_group(f"{prefix}biases", biases, lr_scale=lr_scale, decay=False),
    ]


def _shrunk(images: Tensor, factor: int) -> Tensor:
    """(B, 3, H, W) uint8 -> (B, 3, H // factor, W // factor) uint8, each pixel the mean of those that it covers."""
    return images if factor == 1 else F.avg_pool2d(images.float(), factor).round().to(torch.uint8)
