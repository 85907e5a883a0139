"""What is left of a run besides its networks, and generating with all of them; an exported folder holds this file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from micro_diffusion.diffusion.image_conditioning import ImageConditioner
from micro_diffusion.diffusion.objective import Objective
from micro_diffusion.sampling.pipeline import Pipeline
from micro_diffusion.sampling.prompts import Prompts
from micro_diffusion.sampling.sampler import Sampler
from micro_diffusion.sampling.thresholding import Thresholding


class Generation:
    """How a trained network generates.

    Args:
        objective: makes a denoiser of the network.
        sampler: walks from noise to latents with that denoiser.
        prompts: with the settings that images are generated with where none are given.
        image_conditioner: makes the network's conditioning image, where it takes one.
        thresholding: keeps denoised latents within the range of pixels, where they have one.
    """

    def __init__(
        self,
        *,
        objective: Objective,
        sampler: Sampler,
        prompts: Prompts,
        image_conditioner: ImageConditioner | None = None,
        thresholding: Thresholding | None = None,
    ) -> None:
        self.objective = objective
        self.sampler = sampler
        self.prompts = prompts
        self.image_conditioner = image_conditioner
        self.thresholding = thresholding

    def generate(
        self,
        *,
        backbone: Any,
        autoencoder: Any,
        text_encoder: Any,
        captions: Sequence[str] | None = None,
        count: int = 1,
        seed: int | None = None,
        guidance_scale: float | None = None,
        **settings: Any,
    ) -> Tensor:
        """`count` images for each caption, uint8 (B, 3, H, W) on the CPU; None stands for what `prompts` say.

        The other settings are those of `micro_diffusion.sampling.pipeline.Pipeline.generate`.
        """
        pipeline = Pipeline(
            backbone=backbone,
            autoencoder=autoencoder,
            text_encoder=text_encoder,
            objective=self.objective,
            sampler=self.sampler,
            image_conditioner=self.image_conditioner,
            thresholding=self.thresholding,
        )
        chosen = self.prompts.captions if captions is None else captions
        return pipeline.generate(
            [caption for caption in chosen for _ in range(count)],
            seed=self.prompts.seed if seed is None else seed,
            guidance_scale=self.prompts.guidance_scale if guidance_scale is None else guidance_scale,
            **settings,
        )
