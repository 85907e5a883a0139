"""An autoencoder of weight-standardised convolutions, linear attention and pooling.

It is that of "latent diffusion from scratch" (https://github.com/stanipov/pytorch-diffusion).

Legend: B images, C latent channels, f downsampling factor, H W image height and width, h = H/f, w = W/f.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from micro_diffusion.autoencoder.gaussian import GaussianAutoencoder
from micro_diffusion.bounds import NonNegativeInt, PositiveFloat, PositiveInt
from micro_diffusion.layers.image_attention import ImageAttention
from micro_diffusion.layers.resampling import Downsampling, DownsamplingKind, Upsampling, UpsamplingKind
from micro_diffusion.layers.residual import ResidualBlock, StandardisedConv2d, check_groups


class LdmVAE(GaussianAutoencoder):
    """A variational autoencoder of residual blocks with attention at chosen levels.

    Level i of the encoder has width·multipliers[i-1] channels, level 0 has `width`; the last level is not resampled.
    The decoder's levels are those of the encoder in reverse, numbered from the smallest resolution.

    Args:
        channels: C.
        downsampling: f; 2 to the number of multipliers less one.
        width: channels at full resolution.
        multipliers: of `width`, one for each level.
        blocks: residual blocks of a level.
        groups: of each GroupNorm in them; divides every width.
        encoder_attention: levels of the encoder with attention before they are resampled.
        decoder_attention: levels of the decoder with attention.
        heads: of the attention.
        head_dim: width of a head.
        downsampling_kind: "average", "max" or "convolution".
        upsampling_kind: "nearest", "bilinear", "bicubic" or "transposed".
        tanh: whether images leave the decoder through a tanh, which keeps them in [-1, 1].
        inner_channels: of the latents within encoder and decoder, where a 1×1 convolution maps them to C; None for C.
        norm_eps: of the last GroupNorm of encoder and decoder.

    Raises:
        ValueError: for a factor that the multipliers do not give, or sizes that do not fit one another.
    """

    network = "ldm-vae"

    def __init__(
        self,
        *,
        channels: PositiveInt = 4,
        downsampling: PositiveInt = 8,
        width: PositiveInt = 8,
        multipliers: Sequence[PositiveInt] = (1, 2, 4, 8),
        blocks: PositiveInt = 2,
        groups: PositiveInt = 4,
        encoder_attention: Sequence[NonNegativeInt] = (0, 1, 2, 3),
        decoder_attention: Sequence[NonNegativeInt] = (0, 1, 2, 3),
        heads: PositiveInt = 1,
        head_dim: PositiveInt = 16,
        downsampling_kind: DownsamplingKind = "average",
        upsampling_kind: UpsamplingKind = "nearest",
        tanh: bool = False,
        inner_channels: PositiveInt | None = None,
        norm_eps: PositiveFloat = 1e-6,
    ) -> None:
        config = {
            "channels": channels,
            "downsampling": downsampling,
            "width": width,
            "multipliers": list(multipliers),
            "blocks": blocks,
            "groups": groups,
            "encoder_attention": list(encoder_attention),
            "decoder_attention": list(decoder_attention),
            "heads": heads,
            "head_dim": head_dim,
            "downsampling_kind": downsampling_kind,
            "upsampling_kind": upsampling_kind,
            "tanh": tanh,
            "inner_channels": inner_channels,
            "norm_eps": norm_eps,
        }
        widths = [width, *(width * multiplier for multiplier in multipliers)]
        self._check(downsampling, widths, groups, encoder_attention, decoder_attention)
        super().__init__(channels=channels, downsampling=downsampling, config=config)
        inner = channels if inner_channels is None else inner_channels

        def block(channels: int) -> ResidualBlock:
            return ResidualBlock(channels, channels, groups=groups)

        def attention(channels: int) -> ImageAttention:
            return ImageAttention(channels, heads=heads, head_dim=head_dim, kind="linear")

        def level(index: int, channels: int, attended: Sequence[int], resample: nn.Module) -> list[nn.Module]:
            attentions = [attention(channels)] if index in attended else []
            return [*(block(channels) for _ in range(blocks)), *attentions, resample]

        def middle() -> nn.Module:
            return nn.Sequential(block(widths[-1]), attention(widths[-1]), block(widths[-1]))

        downs, ups = [], []
        for index, ((before, after), (below, above)) in enumerate(
            zip(pairwise(widths), pairwise(widths[::-1]), strict=True)
        ):
            last = index == len(multipliers) - 1
            down = _standardised(before, after) if last else Downsampling(before, after, downsampling_kind)
            up = _standardised(below, above) if last else Upsampling(below, above, upsampling_kind)
            downs += level(index, before, encoder_attention, down)
            ups += level(index, below, decoder_attention, up)
        self.encoder = _named(
            first=nn.Conv2d(3, width, 3, padding=1),
            levels=nn.Sequential(*downs),
            middle=middle(),
            last=nn.Sequential(
                nn.GroupNorm(groups, widths[-1], eps=norm_eps), nn.SiLU(), _standardised(widths[-1], 2 * inner)
            ),
            moments=StandardisedConv2d(2 * inner, 2 * channels, 1),
        )
        self.decoder = _named(
            latents=StandardisedConv2d(channels, inner, 1),
            first=_standardised(inner, widths[-1]),
            middle=middle(),
            levels=nn.Sequential(*ups),
            last=nn.Sequential(nn.GroupNorm(groups, width, eps=norm_eps), _standardised(width, 3)),
        )
        self.output = nn.Tanh() if tanh else nn.Identity()
        self._begin_small(2 * inner)

    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> mean and log variance, (B, C, h, w) each."""
        mean, logvar = self.encoder(images).chunk(2, dim=1)
        return mean, logvar.clamp(-30, 20)

    def reconstruct(self, unscaled: Tensor) -> Tensor:
        """Latents (B, C, h, w) before shift and scaling -> (B, 3, H, W), about [-1, 1]; exactly so with tanh."""
        return self.output(self.decoder(unscaled))

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight of the convolution that makes the image."""
        return self.decoder.get_submodule("last.1").weight  # pyright: ignore[reportReturnType]

    def _begin_small(self, moments: int) -> None:
        """Begin with moments and images of about unit size.

        Filters of variance 1 multiply the std of their input by the root of its number; what comes after the last norm
        cannot shrink it again, and a log variance of 20 would drown every image in noise.
        """
        for stack, further in ((self.encoder, moments), (self.decoder, 1)):
            scale: Any = stack.get_submodule("last.0").weight
            nn.init.constant_(scale, (9 * len(scale) * further) ** -0.5)

    @staticmethod
    def _check(
        downsampling: int, widths: Sequence[int], groups: int, encoder: Sequence[int], decoder: Sequence[int]
    ) -> None:
        levels = len(widths) - 1
        if levels < 1 or downsampling != 2 ** (levels - 1):
            raise ValueError(
                f"downsampling is {downsampling}, but {levels} multipliers make it {2 ** max(levels - 1, 0)}; set "
                "autoencoder.multipliers to one more than there are halvings"
            )
        check_groups(groups, **{f"level {i} of the autoencoder": width for i, width in enumerate(widths)})
        for name, attended in (("encoder_attention", encoder), ("decoder_attention", decoder)):
            if unknown := [index for index in attended if not 0 <= index < levels]:
                raise ValueError(f"{name} names level {unknown[0]}; set it to levels from 0 to {levels - 1}")


def _standardised(in_channels: int, out_channels: int) -> StandardisedConv2d:
    return StandardisedConv2d(in_channels, out_channels, 3, padding=1)


def _named(**modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(modules))
