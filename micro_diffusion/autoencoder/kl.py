"""A small convolutional variational autoencoder without normalisation layers, which trains at any batch size.

Legend: B images, C latent channels, f downsampling factor, H W image height and width, h = H/f, w = W/f.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from micro_diffusion.autoencoder.autoencoder import Generators, check_divisible, check_stated, unit_noise
from micro_diffusion.bundled import resolve_path
from micro_diffusion.files.json_text import parse_json
from micro_diffusion.files.provenance import weights_digest
from micro_diffusion.files.weight_file import read_tensors, write_tensors

_WEIGHTS, _CONFIG = "model.safetensors", "config.json"


class KLAutoencoder(nn.Module):
    """Maps images to a diagonal Gaussian over latents (Kingma & Welling 2014) and latents to images.

    Resolution is halved and doubled by rearranging pixels into channels and back, so the convolutions at full
    resolution, the dearest ones, are never needed; that makes it quick on a CPU.

    Args:
        channels: C.
        downsampling: f, a power of 2 and at least 2.
        width: channels of the features at half resolution; they double with each further halving.
        encoder_blocks: residual blocks of the encoder at each resolution.
        decoder_blocks: residual blocks of the decoder at each resolution.
        tanh: bound the reconstructions to (-1, 1), as for adversarial training.
    """

    shift: Tensor
    scaling: Tensor

    def __init__(
        self,
        *,
        channels: int = 4,
        downsampling: int = 4,
        width: int = 48,
        encoder_blocks: int = 1,
        decoder_blocks: int = 2,
        tanh: bool = False,
    ) -> None:
        super().__init__()
        halvings = downsampling.bit_length() - 1
        if downsampling < 2 or 2**halvings != downsampling:
            raise ValueError(f"downsampling is {downsampling}; set it to a power of 2 that is at least 2")
        self.config = {
            "channels": channels,
            "downsampling": downsampling,
            "width": width,
            "encoder_blocks": encoder_blocks,
            "decoder_blocks": decoder_blocks,
            "tanh": tanh,
        }
        self.channels = channels
        self.downsampling = downsampling
        self.tanh = tanh
        widths = [width * 2**level for level in range(halvings)]
        self.encoder = _encoder(widths, 2 * channels, encoder_blocks)
        self.decoder = _decoder(widths, channels, decoder_blocks)
        # The latents' mean and inverse std per channel, measured after training (`measure_scale`).
        self.register_buffer("shift", torch.zeros(channels))
        self.register_buffer("scaling", torch.ones(channels))

    @property
    def name(self) -> str:
        """Names the weights by their digest, taken in half precision so that a copy stored so keeps its name."""
        digest = hashlib.blake2b(digest_size=4)
        for key, value in sorted(self.state_dict().items()):
            digest.update(key.encode())
            digest.update(value.half().cpu().contiguous().numpy().tobytes())
        return f"kl-f{self.downsampling}-c{self.channels}-{digest.hexdigest()}"

    @property
    def provenance(self) -> dict[str, str]:
        """The digest of the weights, shift and scaling among them, and their dtype."""
        return {"digest": weights_digest(self), "dtype": str(self.shift.dtype).removeprefix("torch.")}

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight of the last convolution, before its channels are rearranged to pixels."""
        return self.decoder[-2].weight  # pyright: ignore[reportReturnType]

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) in [-1, 1] -> mean and log variance of the unscaled latents, (B, C, h, w) each."""
        check_divisible(images, self.downsampling)
        mean, logvar = self.encoder(images.contiguous(memory_format=torch.channels_last)).chunk(2, dim=1)
        return mean, logvar.clamp(-20, 10)

    def reconstruct(self, unscaled: Tensor) -> Tensor:
        """Latents (B, C, h, w) before shift and scaling -> (B, 3, H, W), about [-1, 1], not clamped."""
        images = self.decoder(unscaled.contiguous(memory_format=torch.channels_last)).contiguous()
        return images.tanh() if self.tanh else images

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
        unscaled = latents.to(self.shift) / _per_channel(self.scaling) + _per_channel(self.shift)
        return self.reconstruct(unscaled).clamp(-1, 1)

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
        write_tensors(folder / _WEIGHTS, {key: value.to(dtype) for key, value in self.state_dict().items()})
        (folder / _CONFIG).write_text(json.dumps(self.config, indent=2) + "\n")

    @classmethod
    def load(
        cls, path: str | Path, *, channels: int | None = None, downsampling: int | None = None, device: str = "cpu"
    ) -> KLAutoencoder:
        """The autoencoder that `save` wrote, in fp32, frozen.

        Args:
            path: its folder, or `bundled:NAME`.
            channels: what the config says C is, checked.
            downsampling: what the config says f is, checked.
            device: where to put it.

        Raises:
            FileNotFoundError: when there is no autoencoder in the folder.
            ValueError: when the folder's autoencoder is of another shape than stated.
        """
        folder = resolve_path(path)
        for file in (_CONFIG, _WEIGHTS):
            if not (folder / file).is_file():
                raise FileNotFoundError(
                    f"there is no {file} in {folder}; train an autoencoder with "
                    "`composer train.py --config-path ./configs --config-name train_autoencoder` and set "
                    "autoencoder.path to the autoencoder folder in its run folder, or to bundled:autoencoder"
                )
        try:
            autoencoder = cls(**parse_json((folder / _CONFIG).read_text()))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{folder / _CONFIG} describes no autoencoder ({error}); copy it again") from error
        check_stated(str(path), "channels", channels, autoencoder.channels)
        check_stated(str(path), "downsampling", downsampling, autoencoder.downsampling)
        state = read_tensors(folder / _WEIGHTS)
        try:
            autoencoder.load_state_dict(state)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{folder / _WEIGHTS} does not fit {_CONFIG} beside it: {reason}; copy both") from error
        return autoencoder.to(device).eval().requires_grad_(False)


class ResidualBlock(nn.Module):
    """x + conv(act(conv(act(x)))), whose last convolution starts at zero, so that depth needs no normalisation.

    The zero start follows SkipInit (De & Smith 2020).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.activation = nn.SiLU()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) -> the same shape."""
        return x + self.conv2(self.activation(self.conv1(self.activation(x))))


def _encoder(widths: list[int], out_channels: int, blocks: int) -> nn.Sequential:
    """Images (B, 3, H, W) -> (B, out_channels, H/2^n, W/2^n) for n widths."""
    layers: list[nn.Module] = []
    for before, width in zip([3, *widths], widths, strict=False):
        layers += [nn.PixelUnshuffle(2), nn.Conv2d(4 * before, width, 3, padding=1)]
        layers += [ResidualBlock(width) for _ in range(blocks)]
    return nn.Sequential(*layers, nn.SiLU(), nn.Conv2d(widths[-1], out_channels, 3, padding=1))


def _decoder(widths: list[int], in_channels: int, blocks: int) -> nn.Sequential:
    """Latents (B, in_channels, h, w) -> (B, 3, h·2^n, w·2^n) for n widths."""
    layers: list[nn.Module] = [nn.Conv2d(in_channels, widths[-1], 3, padding=1)]
    for width, after in zip(widths[::-1], [*widths[-2::-1], 3], strict=True):
        layers += [ResidualBlock(width) for _ in range(blocks)]
        layers += [nn.SiLU(), nn.Conv2d(width, 4 * after, 3, padding=1), nn.PixelShuffle(2)]
    return nn.Sequential(*layers)


def _per_channel(values: Tensor) -> Tensor:
    return values[:, None, None]
