"""The EDM objective: Karras et al. 2022, "Elucidating the Design Space", arXiv 2206.00364.

Legend: B batch, C latent channels, h w latent cells, K kept patches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from micro_diffusion.condition import Condition
from micro_diffusion.diffusion.denoiser import Denoiser, NoiseLevel
from micro_diffusion.diffusion.objective import Loss

if TYPE_CHECKING:
    from micro_diffusion.backbone.backbone import Backbone


class Preconditioning(NamedTuple):
    """The four functions of sigma in Karras et al. 2022, Table 1 (column "Ours"), each of sigma's shape."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor


class EDM:
    """Log-normal noise levels and the preconditioned denoiser D(x; sigma) = c_skip·x + c_out·F(c_in·x; c_noise).

    Args:
        sigma_data: standard deviation of the latents.
        P_mean: mean of ln sigma in training.
        P_std: standard deviation of ln sigma in training.
        sigma_min: lowest noise level of sampling.
        sigma_max: highest noise level of sampling.
    """

    def __init__(
        self, *, sigma_data: float, P_mean: float, P_std: float, sigma_min: float = 0.002, sigma_max: float = 80.0
    ) -> None:
        if sigma_data <= 0 or P_std < 0 or not 0 < sigma_min < sigma_max:
            raise ValueError(
                f"EDM is given {sigma_data=}, {P_std=}, {sigma_min=}, {sigma_max=}; set sigma_data > 0, P_std >= 0 "
                "and 0 < sigma_min < sigma_max"
            )
        self.sigma_data, self.P_mean, self.P_std = sigma_data, P_mean, P_std
        self.sigma_min, self.sigma_max = sigma_min, sigma_max

    def precondition(self, sigma: Tensor) -> Preconditioning:
        """Table 1: keeps input and target of the network at unit variance for every sigma."""
        total = (sigma**2 + self.sigma_data**2).sqrt()
        return Preconditioning(
            c_skip=self.sigma_data**2 / total**2,
            c_out=sigma * self.sigma_data / total,
            c_in=1 / total,
            c_noise=self.level(sigma),
        )

    def level(self, sigma: Tensor) -> Tensor:
        """c_noise, ln(sigma)/4 (Table 1)."""
        return sigma.log() / 4

    def weight(self, sigma: Tensor) -> Tensor:
        """The loss weight lambda(sigma) = 1 / c_out² (Table 1)."""
        return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2

    def training_sigma(self, level_normal: Tensor) -> Tensor:
        """Standard normal draws -> sigma, with ln sigma ~ N(P_mean, P_std²)."""
        return (level_normal * self.P_std + self.P_mean).exp()

    def denoise(
        self, backbone: Backbone, x: Tensor, sigma: Tensor, text: Condition, keep: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """x (B, C, h, w) noisy in fp32, sigma () or (B,) -> D(x; sigma) in fp32, and the cells that were predicted.

        Cells that were not predicted hold c_skip·x; their mask (B, 1, h, w) is None when all were.
        """
        sigma = sigma.float().expand(x.shape[0])
        c = self.precondition(sigma)
        column = (-1, 1, 1, 1)
        prediction, visible = backbone(c.c_in.view(column) * x, c.c_noise, text, keep)
        return c.c_skip.view(column) * x + c.c_out.view(column) * prediction.float(), visible

    def loss(
        self,
        backbone: Backbone,
        latents: Tensor,
        text: Condition,
        *,
        level_normal: Tensor,
        noise: Tensor,
        keep: Tensor | None = None,
        loss_mask: Tensor | None = None,
    ) -> Loss:
        """lambda(sigma)·|D(x + sigma·n; sigma) − x|², averaged over each sample's visible patches (eq. 2 and 8).

        loss_mask: (B, 1, h, w) bool, the cells of them whose loss counts; None for all. Where none does it is 0.
        """
        latents = latents.float()
        sigma = self.training_sigma(level_normal)
        denoised, visible = self.denoise(backbone, latents + sigma.view(-1, 1, 1, 1) * noise, sigma, text, keep)
        error = (denoised - latents).square()
        error = error.mean(dim=1, keepdim=True)
        if loss_mask is not None:
            visible = loss_mask if visible is None else visible & loss_mask
        if visible is None:
            return Loss(self.weight(sigma) * error.mean(dim=(1, 2, 3)), sigma)
        cells = visible.sum(dim=(1, 2, 3))
        if loss_mask is not None:
            cells = cells.clamp(min=1)  # patches may hide every cell whose loss counts
        mean = (error * visible).sum(dim=(1, 2, 3)) / cells
        return Loss(self.weight(sigma) * mean, sigma)

    def denoiser(self, backbone: Backbone, text: Condition) -> Denoiser:
        """The backbone, conditioned on `text`, as D(x; sigma)."""

        def denoise(x: Tensor, sigma: NoiseLevel) -> Tensor:
            # a number is filled in on the device; a copy of it would be waited for
            level = sigma.to(x.device) if isinstance(sigma, Tensor) else x.new_full((), sigma, dtype=torch.float32)
            return self.denoise(backbone, x, level, text)[0]

        return denoise
