"""A small convolutional variational autoencoder without normalisation layers, which trains at any batch size.

Legend: B images, C latent channels, f downsampling factor, H W image height and width, h = H/f, w = W/f.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from micro_diffusion.autoencoder.gaussian import GaussianAutoencoder
from micro_diffusion.bounds import NonNegativeInt, PositiveInt


class KLAutoencoder(GaussianAutoencoder):
    """A variational autoencoder that is quick on a CPU.

    Resolution is halved and doubled by rearranging pixels into channels and back, so the convolutions at full
    resolution, the dearest ones, are never needed; that makes it quick on a CPU.

    Args:
        channels: C.
        downsampling: f, a power of 2 and at least 2.
        width: channels of the features at half resolution; they double with each further halving.
        encoder_blocks: residual blocks of the encoder at each resolution.
        decoder_blocks: residual blocks of the decoder at each resolution.
        tanh: whether images leave the decoder through a tanh, which keeps them in [-1, 1].
    """

    network = "kl"

    def __init__(
        self,
        *,
        channels: PositiveInt = 4,
        downsampling: PositiveInt = 4,
        width: PositiveInt = 48,
        encoder_blocks: NonNegativeInt = 1,
        decoder_blocks: NonNegativeInt = 2,
        tanh: bool = False,
    ) -> None:
        halvings = downsampling.bit_length() - 1
        if downsampling < 2 or 2**halvings != downsampling:
            raise ValueError(f"downsampling is {downsampling}; set it to a power of 2 that is at least 2")
        config = {
            "channels": channels,
            "downsampling": downsampling,
            "width": width,
            "encoder_blocks": encoder_blocks,
            "decoder_blocks": decoder_blocks,
            "tanh": tanh,
        }
        super().__init__(channels=channels, downsampling=downsampling, config=config)
        self.tanh = tanh
        widths = [width * 2**level for level in range(halvings)]
        self.encoder = _encoder(widths, 2 * channels, encoder_blocks)
        self.decoder = _decoder(widths, channels, decoder_blocks)

    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> mean and log variance, (B, C, h, w) each."""
        mean, logvar = self.encoder(images.contiguous(memory_format=torch.channels_last)).chunk(2, dim=1)
        return mean, logvar.clamp(-20, 10)

    def reconstruct(self, unscaled: Tensor) -> Tensor:
        """Latents (B, C, h, w) before shift and scaling -> (B, 3, H, W), about [-1, 1], not clamped."""
        images = self.decoder(unscaled.contiguous(memory_format=torch.channels_last)).contiguous()
        return images.tanh() if self.tanh else images

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight of the convolution whose channels become pixels."""
        return self.decoder[-2].weight  # pyright: ignore[reportReturnType]


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
