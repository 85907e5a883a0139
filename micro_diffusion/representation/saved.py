"""The encoder of a run folder that `configs/train_representation.yaml` has made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from micro_diffusion.checkpoint import WEIGHT_FILES, build, choose_weights, load_strictly, read_config
from micro_diffusion.files.weight_file import read_tensors
from micro_diffusion.representation.masked_autoencoder import MaskedAutoencoder
from micro_diffusion.representation.representation import is_counted_only, regridded


class SelfTrained:
    """A representation that was learned from the same latents, without captions.

    Args:
        run: folder of the finished training, of which the averaged weights are taken where it has them.

    Raises:
        FileNotFoundError: when there is no finished run.
        ValueError: when it trained something else.
    """

    def __init__(self, *, run: str) -> None:
        if not Path(run).is_dir():
            raise FileNotFoundError(
                f"there is no run folder {run} of a representation; train one with `composer train.py --config-path "
                "./configs --config-name train_representation`, or name another"
            )
        model: Any = read_config(run).get("model") or {}
        network = build(model, "network", Path(run)) if "network" in model else None
        if not isinstance(network, MaskedAutoencoder):
            raise ValueError(f"{run} trained no representation; name the folder of a run of train_representation")
        if not is_counted_only():
            weights = Path(run, WEIGHT_FILES[choose_weights(run)])
            load_strictly(network, read_tensors(weights), source=str(weights))
        self.network = network.eval().requires_grad_(False)
        self.dim = network.dim
        self.frozen: list[nn.Module] = [self.network]

    def features(self, latents: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, C, h, w), (rows, columns) -> (B, rows·columns, D); see `Representation`."""
        network = self.network.to(latents.device)
        return regridded(network.features(latents), network.grid, grid)
