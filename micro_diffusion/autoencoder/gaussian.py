"""What variational autoencoders share: a posterior, shift and scaling of their latents, and a folder to live in.

Legend: B images, C latent channels, f downsampling factor, H W image height and width, h = H/f, w = W/f.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from micro_diffusion.autoencoder.autoencoder import Generators, check_divisible, check_stated, unit_noise
from micro_diffusion.bundled import resolve_path
from micro_diffusion.files.json_text import parse_json
from micro_diffusion.files.provenance import weights_digest
from micro_diffusion.files.weight_file import read_tensors, write_tensors

WEIGHTS, CONFIG, NETWORK = "model.safetensors", "config.json", "network"
"""The files of an autoencoder's folder, and the entry of the second that says which class it is of."""


class GaussianAutoencoder(nn.Module, ABC):
    """Maps images to a diagonal Gaussian over latents (Kingma & Welling 2014, arXiv 1312.6114), and latents to images.

    Args:
        channels: C.
        downsampling: f.
        config: the arguments of the constructor of the class that derives from this one, in JSON values.
    """

    network: ClassVar[str]
    """Names the class in the folders of its weights, and begins their names."""

    shift: Tensor
    scaling: Tensor

    def __init__(self, *, channels: int, downsampling: int, config: dict[str, Any]) -> None:
        super().__init__()
        self.channels, self.downsampling, self.config = channels, downsampling, config
        # The latents' mean and inverse std per channel, measured after training (`measure_scale`).
        self.register_buffer("shift", torch.zeros(channels))
        self.register_buffer("scaling", torch.ones(channels))

    @abstractmethod
    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) in [-1, 1], H and W multiples of f -> mean and log variance, as `posterior`."""

    @abstractmethod
    def reconstruct(self, unscaled: Tensor) -> Tensor:
        """Latents (B, C, h, w) before shift and scaling -> (B, 3, H, W), about [-1, 1], not clamped."""

    @property
    @abstractmethod
    def last_layer(self) -> nn.Parameter:
        """Weight of the decoder's last layer, where losses are weighed by their gradients."""

    @property
    def name(self) -> str:
        """Names the weights by their digest, taken in half precision so that a copy stored so keeps its name."""
        digest = hashlib.blake2b(digest_size=4)
        for key, value in sorted(self.state_dict().items()):
            digest.update(key.encode())
            digest.update(value.half().cpu().contiguous().numpy().tobytes())
        return f"{self.network}-f{self.downsampling}-c{self.channels}-{digest.hexdigest()}"

    @property
    def provenance(self) -> dict[str, str]:
        """The digest of the weights, shift and scaling among them, and their dtype."""
        return {"digest": weights_digest(self), "dtype": str(self.shift.dtype).removeprefix("torch.")}

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) in [-1, 1] -> mean and log variance of the unscaled latents, (B, C, h, w) each.

        Raises ValueError when H or W is no multiple of f.
        """
        check_divisible(images, self.downsampling)
        return self.moments(images)

    @torch.no_grad()
    def encode(self, images: Tensor, *, generator: Generators = None, sample: bool = True) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, C, h, w), (z - shift) * scaling with z a posterior draw, or its mean."""
        mean, logvar = self.posterior(images.to(self.shift))
        if sample:
            mean = mean + (logvar / 2).exp() * unit_noise(mean, generator)
        return ((mean - _per_channel(self.shift)) * _per_channel(self.scaling)).contiguous()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) as made by `encode` -> (B, 3, H, W), clamped to [-1, 1]."""
        return self.decode_with_gradient(latents).clamp(-1, 1)

    def decode_with_gradient(self, latents: Tensor) -> Tensor:
        """The same, not clamped, for losses on images; its gradients reach the latents."""
        unscaled = latents.to(self.shift) / _per_channel(self.scaling) + _per_channel(self.shift)
        return self.reconstruct(unscaled)

    @torch.no_grad()
    def measure_scale(self, batches: Iterable[Tensor]) -> None:
        """Set shift and scaling so that the latents have mean 0 and std 1 per channel over batches (B, 3, H, W).

        Every batch counts the same, whatever the size of its images.
        """
        moments = []
        for images in batches:
            mean, logvar = self.posterior(images)
            square = mean.square() + logvar.exp()
            moments.append(torch.stack([mean.mean(dim=(0, 2, 3)), square.mean(dim=(0, 2, 3))]))
        first, second = torch.stack(moments).mean(dim=0)
        self.shift.copy_(first)
        self.scaling.copy_((second - first.square()).rsqrt())

    def save(self, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
        """Write the weights and the constructor's arguments into `folder`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(folder / WEIGHTS, {key: value.to(dtype) for key, value in self.state_dict().items()})
        (folder / CONFIG).write_text(json.dumps({NETWORK: self.network, **self.config}, indent=2) + "\n")

    @classmethod
    def load(
        cls, path: str | Path, *, channels: int | None = None, downsampling: int | None = None, device: str = "cpu"
    ) -> Self:
        """The autoencoder that `save` wrote, in fp32, frozen.

        Args:
            path: its folder, or `bundled:NAME`.
            channels: what the config says C is, checked.
            downsampling: what the config says f is, checked.
            device: where to put it.

        Raises:
            FileNotFoundError: when there is no autoencoder in the folder.
            ValueError: when the folder's autoencoder is of another class, or of another shape than stated.
        """
        folder = resolve_path(path)
        network, config = read_config(folder)
        if network != cls.network:
            raise ValueError(
                f"{folder} holds an autoencoder of the kind {network}, not {cls.network}; load it with "
                "micro_diffusion.autoencoder.saved.load_autoencoder"
            )
        try:
            autoencoder = cls(**config)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{folder / CONFIG} describes no autoencoder ({error}); copy it again") from error
        check_stated(str(path), "channels", channels, autoencoder.channels)
        check_stated(str(path), "downsampling", downsampling, autoencoder.downsampling)
        if autoencoder.shift.is_meta:  # it is counted what it costs, for which it needs no weights
            return autoencoder.eval().requires_grad_(False)
        state = read_tensors(folder / WEIGHTS)
        try:
            autoencoder.load_state_dict(state)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{folder / WEIGHTS} does not fit {CONFIG} beside it: {reason}; copy both") from error
        return autoencoder.to(device).eval().requires_grad_(False)


def read_config(folder: Path) -> tuple[str, dict[str, Any]]:
    """The kind of network in an autoencoder's folder, and the arguments of its constructor.

    Folders of earlier versions, which name no kind, hold the small KL autoencoder.

    Raises:
        FileNotFoundError: when there is no autoencoder in the folder.
        ValueError: when its description cannot be read.
    """
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            raise FileNotFoundError(
                f"there is no {file} in {folder}; train an autoencoder with "
                "`composer train.py --config-path ./configs --config-name train_autoencoder` and set "
                "autoencoder.path to the autoencoder folder in its run folder, or to bundled:autoencoder"
            )
    try:
        config = dict(parse_json((folder / CONFIG).read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{folder / CONFIG} describes no autoencoder ({error}); copy it again") from error
    return str(config.pop(NETWORK, "kl")), config


def _per_channel(values: Tensor) -> Tensor:
    return values[:, None, None]
