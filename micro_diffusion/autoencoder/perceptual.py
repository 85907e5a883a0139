"""LPIPS, a distance between images by the features of a network that recognises things (Zhang et al. 2018).

The network and its linear heads are those of torchmetrics, which has the heads with it. The weights of the backbone are
torchvision's, and are read from a file: nothing is downloaded.
"""

from __future__ import annotations

import re
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from micro_diffusion.bounds import NonNegativeFloat
from micro_diffusion.files.weight_file import read_tensors

Network = Literal["vgg", "alex", "squeeze"]


class Backbone(NamedTuple):
    """name: torchvision's. file: as torchvision publishes it. smallest: images that it takes, pixels."""

    name: str
    file: str
    smallest: int


BACKBONES = {
    "vgg": Backbone("vgg16", "vgg16-397923af.pth", 16),
    "alex": Backbone("alexnet", "alexnet-owt-7be5be79.pth", 31),
    "squeeze": Backbone("squeezenet1_1", "squeezenet1_1-b8a52dc0.pth", 17),
}


class Perceptual:
    """LPIPS as a term of a loss. It is frozen, and no part of checkpoints, averages and exported weights.

    Images outside [-1, 1], which torchmetrics' own metric refuses, are taken as they are.

    Args:
        weight: of this term, against the mean error of a pixel; with 0 it is measured, but not trained on.
        network: whose features are compared; "vgg" is the one for training.
        path: file with the weights of torchvision's network; None for the place where torchvision keeps it.
    """

    def __init__(self, *, weight: NonNegativeFloat = 1.0, network: Network = "vgg", path: str | None = None) -> None:
        self.weight = weight
        self.kind: Network = network
        self.smallest = BACKBONES[network].smallest
        file = BACKBONES[network].file
        self.path = Path(torch.hub.get_dir(), "checkpoints", file) if path is None else Path(path).expanduser()
        self._network: nn.Module | None = None

    def __call__(self, images: Tensor, originals: Tensor) -> Tensor:
        """(B, 3, H, W) each, about [-1, 1] -> the distance of each pair, (B,)."""
        return self.load().to(images.device)(images, originals).flatten().float()

    def load(self) -> nn.Module:
        """The network, read from its file at the first call.

        Raises:
            FileNotFoundError: when the file is not there.
            ValueError: when it cannot be read, or holds another network.
        """
        if self._network is None:
            self._network = _network(self.kind, self.path)
        return self._network

    def load_without_weights(self) -> None:
        """Have the network on the meta device, to count what it costs; nothing is read."""
        with torch.device("meta"):
            self._network = _untrained(self.kind)


def _untrained(kind: Network) -> Any:
    """The heads from torchmetrics, the backbone random."""
    from torchmetrics.functional.image.lpips import _NoTrainLpips  # takes seconds, and only this needs it

    return _NoTrainLpips(pretrained=True, net=kind, pnet_rand=True).requires_grad_(False)


def _network(kind: Network, path: Path) -> nn.Module:
    backbone = BACKBONES[kind]
    if not path.is_file():
        raise FileNotFoundError(
            f"there are no LPIPS weights at {path}; put torchvision's {backbone.file} there, set model.perceptual.path "
            "to it, or leave the term out with model.perceptual=null"
        )
    network = _untrained(kind)
    names = {key: re.sub(r"^slices?\.?\d+\.", "features.", key) for key in network.net.state_dict()}
    shapes = {names[key]: tuple(value.shape) for key, value in network.net.state_dict().items()}
    state = _read(path)
    given = {key: tuple(value.shape) for key, value in state.items() if key.startswith("features.")}
    if given != shapes:
        other = [key for key in sorted({*shapes, *given}) if shapes.get(key) != given.get(key)]
        raise ValueError(
            f"{path} holds another network than torchvision's {backbone.name}, from which it differs in {len(other)} "
            f"tensors such as {other[0]}; set model.perceptual.path to {backbone.file}, or model.perceptual.network to "
            "the network of that file"
        )
    network.net.load_state_dict({key: state[name] for key, name in names.items()})
    return network


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return read_tensors(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    except (UnpicklingError, RuntimeError, EOFError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} holds no weights of torchvision ({reason}); download it again") from error
