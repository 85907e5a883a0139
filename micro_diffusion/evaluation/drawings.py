"""Images that no judge can read, such as emoji: how far from real ones as a set, and whether they are copies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor
from torch.nn.functional import interpolate

from micro_diffusion.evaluation.metrics import ImageMetrics
from micro_diffusion.evaluation.nearest import SIDE, copied, images_of_data, nearest


class DrawingMetrics:
    """The Fréchet distance to unseen images, and the share of images that are as near to a training image as a copy.

    Args:
        training: folder of MDS images, as `scripts/convert.py` makes them.
        unseen: another, of images that were not trained on.
        features: network of the distance, see `ImageMetrics`; one that needs no file can only compare runs.
        networks: folder of feature networks' files.
        size: side in pixels to which images are brought for the distance.
    """

    def __init__(
        self,
        *,
        training: str,
        unseen: str,
        features: str = "random_conv",
        networks: str = "feature_networks",
        size: int = 64,
    ) -> None:
        self.training, self.unseen = Path(training), Path(unseen)
        self.distance = ImageMetrics(
            metrics=["fid"], reference=unseen, features=features, networks=networks, size=size, device="cpu"
        )
        # The training images, and how far unseen ones are from them.
        self._compared: tuple[Tensor, Tensor] | None = None

    def open(self) -> None:
        """Read all images, once.

        Raises:
            FileNotFoundError: when a folder is missing.
        """
        if self._compared is None:
            self.distance.open()
            training = images_of_data(self.training, SIDE)
            self._compared = training, nearest(images_of_data(self.unseen, SIDE), training).distance

    def __call__(self, images: Tensor, captions: Sequence[str]) -> dict[str, float]:
        """uint8 (N, 3, H, W) and their prompts -> the distance by its name, and `copied`."""
        self.open()
        assert self._compared is not None
        training, usual = self._compared
        small = interpolate(images.float(), (SIDE, SIDE), mode="bilinear", antialias=True).round().to(images.dtype)
        found = nearest(small, training).distance
        return {**self.distance(images, captions), "copied": copied(found, usual)}
