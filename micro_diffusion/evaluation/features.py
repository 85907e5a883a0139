"""Networks whose features images are compared by, opened from local files.

Legend: B images, H W their height and width in pixels, D features of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from micro_diffusion.files.provenance import weights_digest


class FeatureNetwork(Protocol):
    """Turns images into features.

    identity: everything that features depend on beside the images: name, digest of the weights, layer and resizing.
    Statistics of another identity are never compared.
    """

    identity: dict[str, str]

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> float32 (B, D) on the CPU."""
        ...


@runtime_checkable
class CaptionNetwork(Protocol):
    """A feature network whose space has captions too."""

    def embed_captions(self, captions: Sequence[str]) -> Tensor:
        """B captions -> float32 (B, D) on the CPU."""
        ...


class RandomConvolutions:
    """Convolutions with random weights, for tests and for small images: needs no file.

    Distances are comparable only to others with these features, and say nothing about objects; still noise, blur and
    wrong colours show (Bińkowski et al. 2018, app. C: even random features tell sets apart).

    Args:
        device: where it works.
        seed: of the weights; the known numbers of the project have 0.
    """

    def __init__(self, *, device: str | torch.device = "cpu", seed: int = 0) -> None:
        self.device = torch.device(device)
        random = torch.Generator().manual_seed(seed)
        layers: list[nn.Module] = []
        for before, after in ((3, 32), (32, 32), (32, 32)):
            layer = nn.Conv2d(before, after, 3, stride=2, padding=1)
            with torch.no_grad():
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=random) * (2 / (9 * before)) ** 0.5)
                layer.bias.copy_(torch.randn(layer.bias.shape, generator=random) * 0.1)  # pyright: ignore[reportOptionalMemberAccess]
            layers += [layer, nn.LeakyReLU(0.2)]
        self.network = nn.Sequential(*layers).eval().requires_grad_(False).to(self.device)
        self.identity = {"network": "random_conv", "weights": weights_digest(self.network), "resize": "none"}

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> mean and deviation of each channel over the image, float32 (B, 64)."""
        maps = self.network(images.to(self.device).float() / 127.5 - 1).flatten(2)
        return torch.cat([maps.mean(dim=2), maps.std(dim=2)], dim=1).cpu()


def _inception(folder: Path, device: str | torch.device) -> FeatureNetwork:
    from micro_diffusion.evaluation.inception import Inception

    return Inception(folder=folder, device=device)


def _dinov2(folder: Path, device: str | torch.device) -> FeatureNetwork:
    from micro_diffusion.evaluation.dinov2 import DINOv2

    return DINOv2(folder=folder / "dinov2", device=device)


def _clip(folder: Path, device: str | torch.device) -> FeatureNetwork:
    from micro_diffusion.evaluation.clip import open_clip_network

    return open_clip_network(folder / "clip", device=device)


NETWORKS: dict[str, Callable[[Path, str | torch.device], Any]] = {
    "inception": _inception,
    "dinov2": _dinov2,
    "clip": _clip,
    "random_conv": lambda folder, device: RandomConvolutions(device=device),
}
"""Every feature network by name; each looks for its own files in one folder of networks."""


def open_network(name: str, *, folder: str | Path, device: str | torch.device = "cpu") -> Any:
    """A feature network by its name.

    Args:
        name: one of NETWORKS.
        folder: holds the files of all networks.
        device: where it works.

    Raises:
        FileNotFoundError: when its files are not in the folder; says what to put there.
        ModuleNotFoundError: when a package that it needs is not installed.
        ValueError: for another name, or files of another network.
    """
    if name not in NETWORKS:
        raise ValueError(f"there is no feature network {name!r}; choose one of {', '.join(NETWORKS)}")
    with torch.random.fork_rng(devices=[]):  # or making layers would change the noise of a run that is training
        return NETWORKS[name](Path(folder).expanduser(), device)
