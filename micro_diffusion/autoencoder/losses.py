"""How far a reconstruction is from its original: by pixels and by frequencies. Images are (B, 3, H, W) in [-1, 1]."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from micro_diffusion.bounds import NonNegativeFloat

PixelLoss = Literal["l1", "l2", "huber"]

HUBER_WIDTH = 0.1
"""Below this error, about 13 of 255 levels, the Huber loss is quadratic; above, the absolute error less half of it."""

PIXEL_LOSSES = {
    "l1": F.l1_loss,
    "l2": F.mse_loss,
    "huber": lambda images, originals: F.smooth_l1_loss(images, originals, beta=HUBER_WIDTH),
}


def pixel_loss(kind: PixelLoss, images: Tensor, originals: Tensor) -> Tensor:
    """Mean over all values of the absolute, squared or Huber error, ()."""
    return PIXEL_LOSSES[kind](images, originals)


def negative_log_likelihood(error: Tensor, log_variance: Tensor | float) -> Tensor:
    """error / e^s + s, (): that of a distribution around the reconstruction whose log variance s may be learned.

    Its minimum over s is at s = ln(error), so that a learned s keeps the gradient's size while the error falls
    (Dai & Wipf 2019). With s = 0 it is the error itself.
    """
    return error * torch.exp(-torch.as_tensor(log_variance)) + log_variance


class FocalFrequency:
    """Squared error of the spectrum, weighted towards the frequencies that are missed most (Jiang et al. 2021, eq. 8).

    Args:
        weight: of this term in the loss.
        alpha: how strongly frequencies of small error are left out; with 0 all count the same.
    """

    def __init__(self, *, weight: NonNegativeFloat = 1.0, alpha: NonNegativeFloat = 1.0) -> None:
        self.weight = weight
        self.alpha = alpha

    def __call__(self, images: Tensor, originals: Tensor) -> Tensor:
        """The mean over all frequencies of w·|Δ|², (), with w = |Δ|^alpha over its largest value in the channel."""
        difference = torch.fft.fft2((images - originals).float(), norm="ortho")
        square = difference.real.square() + difference.imag.square()
        with torch.no_grad():
            focus = square.pow(self.alpha / 2)
            focus = focus / focus.amax(dim=(-2, -1), keepdim=True).clamp_min(torch.finfo(focus.dtype).tiny)
        return (focus * square).mean()
