"""Training objectives, composed of parts. Legend: B batch, C latent channels, h w latent cells, K kept patches."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from micro_diffusion.bounds import PositiveFloat
from micro_diffusion.condition import Condition
from micro_diffusion.diffusion.denoiser import Denoiser, NoiseLevel
from micro_diffusion.diffusion.prediction import Prediction
from micro_diffusion.diffusion.process import Process
from micro_diffusion.diffusion.told import TableStep, Told
from micro_diffusion.diffusion.training_levels import TrainingLevels, UniformTime
from micro_diffusion.diffusion.weight import Weight

if TYPE_CHECKING:
    from micro_diffusion.backbone.backbone import Backbone


class Loss(NamedTuple):
    """per_sample: (B,), the objective's weighted loss of each sample. sigma: (B,), its noise std in latent units.

    denoised: (B, C, h, w), the predicted x0. visible: (B, 1, h, w) bool, cells whose loss counts, or None for all.
    """

    per_sample: Tensor
    sigma: Tensor
    denoised: Tensor
    visible: Tensor | None = None


class Preconditioning(NamedTuple):
    """Four functions of sigma that make a denoiser of a network (Karras et al. 2022, eq. 7), each of sigma's shape."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor


class Objective:
    """A loss to train a backbone with, and the denoiser that the trained backbone then is.

    Noise levels are sigma in y = x + sigma·n. Every objective is one affine map around the network F (Karras et al.
    2022, eq. 7), x0 = c_skip·y + c_out·F(c_in·y; c_noise), and a weighted squared error of x0.

    Args:
        process: scales the network's input, c_in.
        prediction: what F is, c_skip and c_out.
        told: what F is told of the noise level, c_noise.
        levels: distribution of sigma in training.
        weight: of the squared error of x0 at each sigma.
        sigma_min: lowest noise level of sampling; None where the training levels have an end.
        sigma_max: highest noise level of sampling; None where the training levels have an end.

    Raises:
        ValueError: for parts that do not fit one another, or ends of sampling that are missing or do not rise.
    """

    def __init__(
        self,
        *,
        process: Process,
        prediction: Prediction,
        told: Told,
        levels: TrainingLevels,
        weight: Weight,
        sigma_min: PositiveFloat | None = None,
        sigma_max: PositiveFloat | None = None,
    ) -> None:
        prediction.coefficients(process, torch.ones(1))
        if isinstance(told, TableStep) and (not isinstance(levels, UniformTime) or levels.schedule != told.table):
            raise ValueError(
                f"the network is told the step of {told.table}, but trained at other levels; draw objective.levels "
                "uniformly from the same table, or choose another objective.told"
            )
        lowest, highest = levels.span or (None, None)
        lowest = lowest if sigma_min is None else sigma_min
        highest = highest if sigma_max is None else sigma_max
        if lowest is None or highest is None:
            raise ValueError(
                f"the training levels {type(levels).__name__} have no ends to sample between; set objective.sigma_min "
                "and objective.sigma_max"
            )
        if not 0 < lowest < highest:
            raise ValueError(f"sampling goes from sigma {highest} to {lowest}; set 0 < sigma_min < sigma_max")
        if levels.span and not (levels.span[0] <= lowest and highest <= levels.span[1]):
            raise ValueError(
                f"sampling goes from sigma {highest:g} to {lowest:g}, but training from {levels.span[1]:g} to "
                f"{levels.span[0]:g} only; leave out objective.sigma_min and objective.sigma_max, or set them within"
            )
        self.process, self.prediction, self.told, self.levels = process, prediction, told, levels
        self.loss_weight = weight
        self.sigma_min, self.sigma_max = lowest, highest

    def precondition(self, sigma: Tensor) -> Preconditioning:
        """The four functions at these noise levels."""
        c_skip, c_out = self.prediction.coefficients(self.process, sigma)
        return Preconditioning(c_skip=c_skip, c_out=c_out, c_in=self.process.alpha(sigma), c_noise=self.level(sigma))

    def level(self, sigma: Tensor) -> Tensor:
        """What a backbone is told of the noise levels sigma (S,) -> (S,)."""
        return self.told(sigma)

    def weight(self, sigma: Tensor) -> Tensor:
        """The factor of the squared error of x0 at sigma (S,) -> (S,)."""
        return self.loss_weight(sigma, self.prediction.coefficients(self.process, sigma)[1])

    def training_sigma(self, level_normal: Tensor) -> Tensor:
        """Standard normal draws (B,) -> the noise levels (B,) of a training step."""
        return self.levels(level_normal)

    def denoise(
        self, backbone: Backbone, x: Tensor, sigma: Tensor, condition: Condition, keep: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """x (B, C, h, w) noisy in fp32, sigma () or (B,) -> D(x; sigma) in fp32, and the cells that were predicted.

        Cells that were not predicted hold c_skip·x; their mask (B, 1, h, w) is None when all were.
        """
        sigma = sigma.float().expand(x.shape[0])
        c = self.precondition(sigma)
        column = (-1, 1, 1, 1)
        prediction, visible = backbone(c.c_in.view(column) * x, c.c_noise, condition, keep)
        return c.c_skip.view(column) * x + c.c_out.view(column) * prediction.float(), visible

    def loss(
        self,
        backbone: Backbone,
        latents: Tensor,
        condition: Condition,
        *,
        level_normal: Tensor,
        noise: Tensor,
        keep: Tensor | None = None,
        loss_mask: Tensor | None = None,
        measure: Objective | None = None,
        contrast: float = 0.0,
    ) -> Loss:
        """weight(sigma)·|D(x + sigma·n; sigma) − x|², averaged over each sample's visible patches.

        latents (B, C, h, w), level_normal (B,) and noise (B, C, h, w) standard normal draws, keep (B, K) or None. The
        draws come from the caller, so that they can follow from (seed, step, rank) and be fixed in evaluation.
        loss_mask: (B, 1, h, w) bool, the cells whose loss counts, or None for all; a sample that shows none has loss 0.
        measure: whose noise levels and weight count in place of these, so that objectives can be compared.
        contrast: share of another sample's error that is taken off; see `repelled`.
        """
        latents, measure = latents.float(), measure or self
        sigma = measure.training_sigma(level_normal)
        noisy = latents + sigma.view(-1, 1, 1, 1) * noise
        denoised, visible = self.denoise(backbone, noisy, sigma, condition, keep)
        error = (denoised - latents).square()
        if contrast:
            error = error - contrast * (denoised - self.repelled(latents, noise, noisy, sigma)).square()
        error = error.mean(dim=1, keepdim=True)
        if loss_mask is not None:
            visible = loss_mask if visible is None else visible & loss_mask
        if visible is None:
            return Loss(measure.weight(sigma) * error.mean(dim=(1, 2, 3)), sigma, denoised)
        mean = (error * visible).sum(dim=(1, 2, 3)) / visible.sum(dim=(1, 2, 3)).clamp(min=1)
        return Loss(measure.weight(sigma) * mean, sigma, denoised, visible)

    def repelled(self, latents: Tensor, noise: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
        """Where x0 would be if the network predicted what is right for the sample before, (B, C, h, w).

        Contrastive flow matching (Stoica et al. 2025, arXiv 2506.05350, eq. 7) keeps the prediction away from the
        target of another sample and its noise. That target, F' = (x' − c_skip·y')/c_out with y' = x' + sigma·n', gives
        x0 = c_skip·y + c_out·F'; so a squared distance of the outputs is 1/c_out² times one of x0, as everywhere here.
        """
        c_skip = self.prediction.coefficients(self.process, sigma)[0].view(-1, 1, 1, 1)
        other = latents.roll(1, dims=0)
        return other + c_skip * (noisy - other - sigma.view(-1, 1, 1, 1) * noise.roll(1, dims=0))

    def denoiser(self, backbone: Backbone, condition: Condition) -> Denoiser:
        """The backbone, conditioned on `condition`, as D(x; sigma)."""

        def denoise(x: Tensor, sigma: NoiseLevel) -> Tensor:
            # a number is filled in on the device; a copy of it would be waited for
            level = sigma.to(x.device) if isinstance(sigma, Tensor) else x.new_full((), sigma, dtype=torch.float32)
            return self.denoise(backbone, x, level, condition)[0]

        return denoise
