"""The discriminator of pix2pix, which judges overlapping patches of an image (Isola et al. 2017, section 3.2.2)."""

from __future__ import annotations

from torch import Tensor, nn

from micro_diffusion.bounds import PositiveInt


class PatchDiscriminator(nn.Module):
    """Convolutions of 4×4, `layers` of them with stride 2, then two with stride 1; with 3 layers a patch is 70 pixels.

    GroupNorm takes the place of BatchNorm, so that no image is judged by its neighbours in the batch: batches may be
    small, and real and generated images may be judged together. Kernels start as N(0, 0.02), as in pix2pix.

    Args:
        width: channels after the first convolution; they double with each further one, up to eightfold.
        layers: halvings.
        groups: of each GroupNorm, a divisor of `width`.

    Raises:
        ValueError: for a width that is no multiple of the groups.
    """

    def __init__(self, *, width: PositiveInt = 64, layers: PositiveInt = 3, groups: PositiveInt = 8) -> None:
        super().__init__()
        if width % groups:
            raise ValueError(f"width of the discriminator is {width}; set it to a multiple of groups={groups}")
        self.smallest = 3 * 2**layers
        widths = [width * min(2**level, 8) for level in range(layers + 1)]
        steps: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for level in range(1, layers + 1):
            stride = 2 if level < layers else 1
            steps += [
                nn.Conv2d(widths[level - 1], widths[level], 4, stride=stride, padding=1, bias=False),
                nn.GroupNorm(groups, widths[level]),
                nn.LeakyReLU(0.2),
            ]
        self.layers = nn.Sequential(*steps, nn.Conv2d(widths[-1], 1, 4, padding=1))
        for module in self.layers:
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1], of at least `smallest` pixels a side -> one logit a patch, (B, 1, h, w).

        h = H/2^layers - 2, and likewise w; above 0 means real.
        """
        return self.layers(images)
