"""The EDM objective: Karras et al. 2022, "Elucidating the Design Space", arXiv 2206.00364, Table 1, column "Ours"."""

from __future__ import annotations

from micro_diffusion.bounds import NonNegativeFloat, PositiveFloat
from micro_diffusion.diffusion import weight
from micro_diffusion.diffusion.objective import Objective
from micro_diffusion.diffusion.prediction import EDMOutput
from micro_diffusion.diffusion.process import VariancePreserving
from micro_diffusion.diffusion.told import QuarterLogSigma
from micro_diffusion.diffusion.training_levels import LogNormal


class EDM(Objective):
    """Log-normal noise levels and the preconditioned denoiser D(x; sigma) = c_skip·x + c_out·F(c_in·x; c_noise).

    Args:
        sigma_data: standard deviation of the latents.
        P_mean: mean of ln sigma in training.
        P_std: standard deviation of ln sigma in training.
        sigma_min: lowest noise level of sampling.
        sigma_max: highest noise level of sampling.
    """

    def __init__(
        self,
        *,
        sigma_data: PositiveFloat,
        P_mean: float,
        P_std: NonNegativeFloat,
        sigma_min: PositiveFloat = 0.002,
        sigma_max: PositiveFloat = 80.0,
    ) -> None:
        if sigma_data <= 0 or P_std < 0 or not 0 < sigma_min < sigma_max:
            raise ValueError(
                f"EDM is given {sigma_data=}, {P_std=}, {sigma_min=}, {sigma_max=}; set sigma_data > 0, P_std >= 0 "
                "and 0 < sigma_min < sigma_max"
            )
        super().__init__(
            process=VariancePreserving(sigma_data=sigma_data),
            prediction=EDMOutput(),
            told=QuarterLogSigma(),
            levels=LogNormal(mean=P_mean, std=P_std),
            weight=weight.EDM(sigma_data=sigma_data),
            sigma_min=sigma_min,
            sigma_max=sigma_max,
        )
