"""Distillation of a run into one that needs few steps and no guidance: multistep consistency.

Heek et al. 2024, arXiv 2403.06807, with the guidance of the teacher folded in (Luo et al. 2023, "Latent Consistency
Models", arXiv 2310.04378, section 4.2; Meng et al. 2023, arXiv 2210.03142).
Legend: B batch, C latent channels, h w latent cells.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from micro_diffusion.backbone.backbone import Backbone
from micro_diffusion.bounds import Fraction, FractionBelow1, NonNegativeFloat, PositiveFloat, PositiveInt
from micro_diffusion.checkpoint import build, initialise_from, read_config
from micro_diffusion.condition import Condition
from micro_diffusion.diffusion.consistency import Segments, consistent
from micro_diffusion.diffusion.denoiser import Denoiser
from micro_diffusion.diffusion.image_conditioning import ImageConditioner
from micro_diffusion.diffusion.objective import Loss, Objective
from micro_diffusion.machine.precision import Precision
from micro_diffusion.sampling.euler import EulerSampler
from micro_diffusion.sampling.guidance import MOST_GUIDANCE, guided_denoiser
from micro_diffusion.sampling.sampler import Sampler
from micro_diffusion.sampling.thresholding import Thresholding
from micro_diffusion.text.encoder import TokenizingEncoder
from micro_diffusion.training.latent_diffusion import LatentDiffusion, WeightDtype
from micro_diffusion.training.lora import Lora
from micro_diffusion.training.trainable import Batch


class Distillation(LatentDiffusion):
    """Trains a student, which starts as the teacher, to go through each segment of noise levels in one step.

    The teacher is a frozen network of the same form, no part of checkpoints, averages and exported weights. The target
    is made by the student itself, without gradient, and so needs no further average.

    Args:
        backbone: the student, whose weights `init_from` gives.
        objective: the teacher's.
        teacher: folder of the finished run to be distilled, of which the averaged weights are taken where it has them;
            None only where a configuration is looked at without being trained.
        guidance_scale: at which the teacher is guided; None for that of its own prompts.
        sampler: of the student, `sampler=euler`. Its noise levels are the ends of the segments.
        substeps: the teacher's steps of Heun's method in each segment.
        thresholding: of the teacher's images, in pixel space.
        train_mask_ratio: 0, since a student is asked for whole images.
        caption_drop: 0, since the teacher's guidance is in every answer.
        noise_bands: see `LatentDiffusion`, as for all others.

    Raises:
        ValueError: for a sampler of another kind, a guidance scale that is no number, masked patches or dropped
            captions, and a teacher of another objective or network.
        FileNotFoundError: when there is no finished run `teacher`.
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        objective: Objective,
        sampler: Sampler,
        substeps: PositiveInt,
        noise_bands: Sequence[PositiveFloat],
        cpu_precision: Precision,
        teacher: str | None = None,
        guidance_scale: NonNegativeFloat | None = None,
        thresholding: Thresholding | None = None,
        train_mask_ratio: FractionBelow1 = 0.0,
        caption_drop: Fraction = 0.0,
        weight_dtype: WeightDtype = "fp32",
        text_encoder: TokenizingEncoder | None = None,
        image_conditioner: ImageConditioner | None = None,
        train_crop: PositiveInt | None = None,
        adapter: Lora | None = None,
    ) -> None:
        if not isinstance(sampler, EulerSampler):
            raise ValueError(
                f"the sampler of a distillation is {type(sampler).__name__}, but its student learns Euler's steps; set "
                "sampler=euler"
            )
        if train_mask_ratio or caption_drop:
            raise ValueError(
                f"model.train_mask_ratio is {train_mask_ratio} and model.caption_drop {caption_drop}, but a "
                "distillation takes whole images and captions; set both to 0"
            )
        self._teacher = Teacher(backbone, objective, teacher, guidance_scale)  # before an adapter is put into it
        super().__init__(
            backbone=backbone,
            objective=objective,
            train_mask_ratio=0.0,
            caption_drop=0.0,
            noise_bands=noise_bands,
            cpu_precision=cpu_precision,
            weight_dtype=weight_dtype,
            text_encoder=text_encoder,
            image_conditioner=image_conditioner,
            train_crop=train_crop,
            adapter=adapter,
        )
        span = {"sigma_min": objective.sigma_min, "sigma_max": objective.sigma_max}
        self.segments = Segments(sampler.sigmas(**span), substeps=substeps)
        self.thresholding = thresholding

    def forward(self, batch: Batch) -> Loss:
        """A batch with its random numbers -> the distance of the student's image from the consistent one.

        Weighted as the objective weights that of the clean image.
        """
        clean, noise = batch["latents"].float(), batch["noise"]
        image, level = batch.get("image"), batch.get("image_level")
        condition = Condition(batch["caption_tokens"], batch["caption_mask"], image, level).to(torch.float32)
        place = self.segments.places(torch.special.ndtr(batch["level_normal"]))
        x = clean + place.sigma.view(-1, 1, 1, 1) * noise
        with self.cpu_autocast(clean.device):
            student = self.objective.denoiser(self.backbone, condition)
            seen = student(x, place.sigma)  # first: autocast keeps its copies of weights, and these need gradients
            with torch.no_grad():
                teacher = self._teacher.denoiser(condition, clean.device)
                teacher = teacher if self.thresholding is None else self.thresholding(teacher)
                target = consistent(student, teacher, x, place)
        error = (seen - target).square().mean(dim=1, keepdim=True)
        counted = batch.get("loss_mask")
        if counted is None:
            counted = torch.ones_like(error, dtype=torch.bool)
        mean = (error * counted).sum(dim=(1, 2, 3)) / counted.sum(dim=(1, 2, 3)).clamp(min=1)
        return Loss(self.objective.weight(place.sigma) * mean, place.sigma, seen)

    def eval_forward(self, batch: Batch, outputs: Loss | None = None) -> Loss:
        """The same as `forward`."""
        return self(batch) if outputs is None else outputs


class Teacher:
    """The guided denoiser of a finished run; no module, so that no training finds its weights.

    Args:
        backbone: a network of the same form, which is copied.
        objective: that the student has.
        run: its folder; None and, on the meta device, any other leave the weights as they are.
        guidance_scale: None for that of the run's prompts.

    Raises:
        ValueError: when the run's network or objective is another, when it is a student itself, or the scale is no
            number.
    """

    def __init__(
        self, backbone: nn.Module, objective: Objective, run: str | None, guidance_scale: float | None
    ) -> None:
        self.objective = objective
        self.network = copy.deepcopy(backbone).eval()
        self.scale = 1.0 if guidance_scale is None else guidance_scale
        self.is_loaded = run is not None
        if run is not None and not any(weight.is_meta for weight in backbone.parameters()):
            config = read_config(run)
            check_no_student(config, run)
            initialise_from(self.network, run)
            check_same_objective(objective, config, Path(run))
            if guidance_scale is None:
                self.scale = build(config, "prompts", Path(run)).guidance_scale
        if not abs(self.scale) <= MOST_GUIDANCE:  # nan is not, either
            raise ValueError(f"model.guidance_scale is {self.scale}; set it to a number, such as 3")

    def denoiser(self, condition: Condition, device: torch.device) -> Denoiser:
        """As the run samples with, on the device of the condition.

        Raises ValueError where there is no run.
        """
        if not self.is_loaded:
            raise ValueError("model.teacher is null, so there is no run to distil; set init_from to its folder")
        backbone: Any = self.network.to(device)
        assert isinstance(backbone, Backbone)
        return guided_denoiser(self.objective, backbone, condition, self.scale)


def check_no_student(config: dict[str, Any], run: str) -> None:
    """Raise ValueError for a run that was distilled: its answers are for whole segments, and have no slope."""
    own = (config.get("model") or {}).get("teacher")
    if own is not None:
        raise ValueError(
            f"{run} was distilled itself, and a student cannot be followed in small steps; set model.teacher to its "
            f"teacher, {own}, and init_from to either of them"
        )


def check_same_objective(objective: Objective, config: dict[str, Any], run: Path) -> None:
    """Compare how an objective makes a denoiser of a network with how that of a run did.

    Raises:
        ValueError: when they differ, so that the run's weights would mean something else.
    """
    theirs: Objective = build(config, "objective", run)
    sigma = torch.tensor([0.01, 0.1, 1.0, 10.0, 100.0], dtype=torch.float64)
    pairs = zip(objective.precondition(sigma), theirs.precondition(sigma), strict=True)
    if not all(torch.allclose(ours, other) for ours, other in pairs):
        raise ValueError(
            f"the teacher {run} was trained with the objective {config['objective']}, with which this one does not "
            "make the same of its network; set objective to that of the run"
        )
