"""rFID: how far reconstructions are from their originals as sets, by the features of a network.

Legend: B images, H W pixels, D features of an image.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torchmetrics import Metric

from micro_diffusion.evaluation.distances import frechet_distance, moments
from micro_diffusion.evaluation.features import open_network
from micro_diffusion.machine.device import usable_device
from micro_diffusion.sampling.pipeline import to_uint8


class ReconstructionDistance(Metric):
    """The Fréchet distance of Heusel et al. 2017 between the images of an evaluation and their reconstructions.

    With few images it is biased upwards, so compare runs on the same images alone.

    Args:
        network: one of `features.NETWORKS`; "inception" makes it the rFID of papers.
        folder: of the network's file.

    Raises:
        FileNotFoundError: when the file is not there; says what to put where.
        ModuleNotFoundError: when a package that the network needs is not installed.
    """

    full_state_update = False
    made: list[Tensor]
    real: list[Tensor]

    def __init__(self, *, network: str = "inception", folder: str | Path = "feature_networks") -> None:
        super().__init__()
        self.network = open_network(network, folder=folder, device=usable_device(None))
        self.add_state("made", [], dist_reduce_fx="cat")
        self.add_state("real", [], dist_reduce_fx="cat")

    def update(self, images: Tensor, originals: Tensor) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Count a batch (B, 3, H, W) in [-1, 1] and its originals."""
        for features, batch in ((self.made, images), (self.real, originals)):
            features.append(self.network(to_uint8(batch)).to(images.device))

    def compute(self) -> Tensor:
        """The distance, ()."""
        made, real = (moments(torch.cat(list(rows)).cpu()) for rows in (_listed(self.made), _listed(self.real)))
        return torch.tensor(frechet_distance(made, real))


def _listed(rows: list[Tensor] | Tensor) -> list[Tensor]:
    """Features (B, D) of batches; torchmetrics joins them when several ranks have counted."""
    return [rows] if isinstance(rows, Tensor) else rows
