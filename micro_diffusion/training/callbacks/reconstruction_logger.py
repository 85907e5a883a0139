"""Shows what an autoencoder keeps of images while it trains: originals above reconstructions."""

from __future__ import annotations

from pathlib import Path

import torch
from composer import Callback, Logger, State
from composer.utils import dist

from micro_diffusion.bounds import PositiveInt
from micro_diffusion.sampling.grid import captioned_grid
from micro_diffusion.sampling.pipeline import to_uint8


class ReconstructionLogger(Callback):
    """At every evaluation, a captioned PNG grid in the run folder and the same images to the loggers, on rank 0.

    Args:
        folder: for the grids.
        images: of the first evaluation batch that are shown.
    """

    def __init__(self, *, folder: str, images: PositiveInt) -> None:
        self.folder = Path(folder)
        self.images = images
        self._is_first_batch = False

    def eval_start(self, state: State, logger: Logger) -> None:
        """Wait for the first batch."""
        self._is_first_batch = dist.get_global_rank() == 0

    def eval_batch_end(self, state: State, logger: Logger) -> None:
        """Log it."""
        if not self._is_first_batch:
            return
        self._is_first_batch = False
        originals = state.batch["images"][: self.images].cpu()
        reconstructions = to_uint8(state.outputs.images[: self.images])  # pyright: ignore[reportAttributeAccessIssue]
        pairs = torch.cat([originals, reconstructions.cpu()], dim=2)
        step = state.timestamp.batch.value
        self.folder.mkdir(parents=True, exist_ok=True)
        captioned_grid(pairs, state.batch["caption"][: self.images]).save(self.folder / f"step_{step:07d}.png")
        logger.log_images(list(pairs), name="reconstructions", channels_last=False, step=step)
