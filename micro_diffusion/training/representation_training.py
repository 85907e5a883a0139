"""Training of a representation on latents, without captions; its run folder then is an encoder that others learn from.

Legend: B batch, C latent channels, h w latent cells, K kept patches.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from composer import ComposerModel
from torch import Tensor
from torchmetrics import MeanMetric, Metric

from micro_diffusion.backbone.backbone import ParameterGroup
from micro_diffusion.backbone.masking import kept_patches, random_keep
from micro_diffusion.bounds import OpenFraction
from micro_diffusion.checkpoint import Weights, save_weights
from micro_diffusion.machine.precision import Precision
from micro_diffusion.representation.masked_autoencoder import MaskedAutoencoder
from micro_diffusion.training.seeded_random import Draws
from micro_diffusion.training.trainable import Batch, NetworkOnCpu


class RepresentationTraining(NetworkOnCpu, ComposerModel):
    """The squared error of masked patches of clean latents.

    Args:
        network: encoder and decoder.
        mask_ratio: share of patches that are to be guessed; He et al. 2022 found three quarters best.
        cpu_precision: of the network on a CPU, where Composer knows fp32 only; "auto" is bf16 where that is faster.

    Raises:
        ValueError: for a mask ratio that keeps no patch.
    """

    def __init__(self, *, network: MaskedAutoencoder, mask_ratio: OpenFraction, cpu_precision: Precision) -> None:
        super().__init__()
        kept_patches(network.patches, mask_ratio)
        self.network = network
        self.mask_ratio = mask_ratio
        self.cpu_precision: Precision = cpu_precision
        self.metrics: dict[str, Metric] = {"loss": MeanMetric()}

    def parameter_groups(self) -> list[ParameterGroup]:
        """The network knows which of its parameters belong together."""
        return self.network.parameter_groups()

    def draw(self, batch: Batch, draws: Draws) -> Batch:
        """Adds keep (B, K), in a new batch."""
        return {**batch, "keep": random_keep(draws.uniform(self.network.patches), self.mask_ratio)}

    def draw_eval(self, batch: Batch, draws: Draws) -> Batch:
        """The same."""
        return self.draw(batch, draws)

    def forward(self, batch: Batch) -> Tensor:
        """A batch with its random numbers drawn -> the loss of each sample, (B,)."""
        latents = batch["latents"].float()
        with self.cpu_autocast(latents.device):
            return self.network(latents, batch["keep"])

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The mean over the batch."""
        return outputs.mean()

    def eval_forward(self, batch: Batch, outputs: Tensor | None = None) -> Tensor:
        """The same as `forward`."""
        return self(batch) if outputs is None else outputs

    def get_metrics(self, is_train: bool = False) -> dict[str, Metric]:
        """The evaluation loss; training reports its loss by itself."""
        return {} if is_train else self.metrics

    def update_metric(self, batch: Batch, outputs: Tensor, metric: Metric) -> None:
        """Count the losses of a batch, each sample once over all ranks."""
        metric.update(outputs[~batch["repeated"]] if "repeated" in batch else outputs)

    def save(self, folder: Path, weights: Weights, state: dict[str, Tensor], batches: Iterable[Batch]) -> None:
        """Write the network's weights with plain keys."""
        save_weights(folder, state, weights)
