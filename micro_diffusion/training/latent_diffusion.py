"""Training of a latent diffusion model: an objective over a backbone, as a ComposerModel.

Legend: B batch, C latent channels, h w latent cells, L caption tokens, D caption width, K kept patches.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from composer import ComposerModel
from torch import Tensor, nn
from torchmetrics import Metric

from micro_diffusion.backbone.backbone import Backbone, ParameterGroup, check_image_conditioner
from micro_diffusion.backbone.class_token import class_features, class_token_of
from micro_diffusion.backbone.masking import kept_patches, random_keep
from micro_diffusion.batch import TokenIds
from micro_diffusion.bounds import Fraction, FractionBelow1, PositiveFloat, PositiveInt
from micro_diffusion.checkpoint import Weights, save_weights
from micro_diffusion.condition import Condition
from micro_diffusion.diffusion.image_conditioning import ImageConditioner
from micro_diffusion.diffusion.objective import Loss, Objective
from micro_diffusion.machine.precision import Precision, computes_in_bf16
from micro_diffusion.text.encoder import TokenizingEncoder
from micro_diffusion.training.auxiliary.auxiliary import Auxiliaries, Auxiliary, Step
from micro_diffusion.training.entanglement import Entanglement
from micro_diffusion.training.lora import Lora
from micro_diffusion.training.seeded_random import Draws
from micro_diffusion.training.trainable import Batch, NetworkOnCpu

WeightDtype = Literal["fp32", "bf16"]


class WithTerms(NamedTuple):
    """The loss of a training step. own: of the objective. terms: further losses by name, () each."""

    own: Loss
    terms: dict[str, Tensor]


class LatentDiffusion(NetworkOnCpu, ComposerModel):
    """The loss of an objective on batches of latents.

    The autoencoder is no part of it, and the text encoder only where the data hold token ids: it is then frozen, and
    no part of checkpoints, averages and exported weights.

    Args:
        backbone: the network to train.
        objective: what it learns to predict.
        train_mask_ratio: share of patches that are masked in training, from 0 up to, but not including, 1.
        caption_drop: probability of a caption to be replaced by the null caption in training.
        image_conditioner: makes the conditioning image of a backbone with `image_channels`; None for one without.
        train_crop: side in latent cells of the random square of each latent that a training step sees, for a network
            without positions; None trains on whole latents. Evaluation and generation take whole ones.
        noise_bands: rising noise levels sigma between which the evaluation loss is reported separately.
        text_encoder: makes features of token ids, in its own floating-point type; None where the data hold features.
        weight_dtype: of the network's matrices; its vectors are fp32. With bf16 `optimizer=adamw` keeps what rounding
            takes away (training/compact_adamw.py).
        adapter: what is trained in place of the network's weights, which then are frozen; None trains these.
        cpu_precision: of the network on a CPU, where Composer knows fp32 only; "auto" is bf16 where that is faster.
        eval_objective: whose noise levels and weight the evaluation loss has, so that runs of several objectives can be
            compared; None for those of the objective itself.
        final_mask_ratio: to which the share of masked patches goes evenly over the training; None where it stays. The
            network is compiled again for each number of patches that are left.
        contrast: of contrastive flow matching, in training; see `Objective.repelled`.
        auxiliary: further losses in training, by any names; None and an entry of None have none.
        entangled: makes the vector of a backbone with a class token, which is denoised with the image; None for one
            without. The evaluation loss is of the image alone.

    Raises:
        ValueError: for a mask ratio that keeps no patch, bands that do not rise, or a backbone
            that takes another conditioning image or vector than is made.
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        objective: Objective,
        train_mask_ratio: FractionBelow1,
        caption_drop: Fraction,
        noise_bands: Sequence[PositiveFloat],
        cpu_precision: Precision,
        weight_dtype: WeightDtype = "fp32",
        text_encoder: TokenizingEncoder | None = None,
        image_conditioner: ImageConditioner | None = None,
        train_crop: PositiveInt | None = None,
        adapter: Lora | None = None,
        eval_objective: Objective | None = None,
        final_mask_ratio: FractionBelow1 | None = None,
        contrast: Fraction = 0.0,
        auxiliary: Mapping[str, Auxiliary | None] | None = None,
        entangled: Entanglement | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(backbone, Backbone):
            raise ValueError(f"{type(backbone).__name__} is no backbone; it lacks a part of backbone/backbone.py")
        if any(low >= high for low, high in itertools.pairwise([0.0, *noise_bands])):
            raise ValueError(f"model.noise_bands is {list(noise_bands)}; set it to rising noise levels above 0")
        computes_in_bf16("cpu", cpu_precision)
        for ratio in (train_mask_ratio, final_mask_ratio or 0.0):
            _check_masking(backbone, ratio)
        check_image_conditioner(backbone, image_conditioner, "model.image_conditioner")
        _check_entangled(backbone, entangled, train_crop)
        if text_encoder is not None and not isinstance(text_encoder, TokenizingEncoder):
            raise ValueError(f"{text_encoder.name} has no token ids; set model.text_encoder=null")
        if weight_dtype == "bf16":
            for parameter in backbone.parameters():
                parameter.data = parameter.data.bfloat16() if parameter.ndim > 1 else parameter.data
        if adapter is not None:
            adapter.inject(backbone)
        self.network = backbone
        self.adapter = adapter
        self.text_encoder = text_encoder
        self.image_conditioner = image_conditioner
        self.entangled = entangled
        self.train_crop = train_crop
        self.objective, self.eval_objective = objective, eval_objective
        self.contrast = contrast
        self.train_mask_ratio, self.final_mask_ratio = train_mask_ratio, final_mask_ratio
        self.caption_drop = caption_drop
        self.cpu_precision: Precision = cpu_precision
        self.auxiliary = Auxiliaries(auxiliary, self.backbone) if auxiliary and any(auxiliary.values()) else None
        self.metrics: dict[str, Metric] = {"loss": BandLoss(0.0, math.inf)}
        for low, high in itertools.pairwise([0.0, *noise_bands, math.inf]):
            self.metrics[f"loss_sigma_{low:g}-{high:g}"] = BandLoss(low, high)

    @property
    def backbone(self) -> Backbone:
        """The network under its own name."""
        return self.network  # pyright: ignore[reportReturnType]

    @property
    def frozen(self) -> list[nn.Module]:
        """The networks that a step looks through; they are no modules of this one."""
        parts = [part for part in (self.auxiliary, self.entangled) if part is not None]
        return [network for part in parts for network in part.frozen]

    def parameter_groups(self) -> list[ParameterGroup]:
        """The backbone knows which of its parameters belong together; beside adapters it has frozen ones."""
        groups = self.backbone.parameter_groups()
        if self.adapter is not None:
            for group in groups:
                group["parameters"] = [p for p in group["parameters"] if p.requires_grad]
        groups += [] if self.auxiliary is None else self.auxiliary.parameter_groups()
        return [group for group in groups if group["parameters"]]

    def draw(self, batch: Batch, draws: Draws) -> Batch:
        """Adds level_normal (B,), noise (B, C, h, w), caption_dropped (B,) and keep (B, K), in a new batch.

        And what the image conditioner makes: image (B, C', h, w), image_level (B,), loss_mask (B, 1, h, w). And the
        noise of the class vector: class_noise (B, F).
        Captions are dropped by `forward`: here, on the host, it would copy all of them, out of their pinned memory.
        """
        batch = self._with_features(batch)
        latents = batch["latents"]
        if self.train_crop is not None:
            latents = random_squares(latents, self.train_crop, draws.uniform(2))
        drawn = {
            **batch,
            "latents": latents,
            "level_normal": draws.normal(),
            "noise": draws.normal(*latents.shape[1:]),
            "caption_dropped": draws.uniform() < self.caption_drop,
        }
        if mask_ratio := self.mask_ratio(draws.progress):
            drawn["keep"] = random_keep(draws.uniform(math.prod(self._grid(latents))), mask_ratio)
        if self.draws:  # which the network does as torch does, wherever it is
            torch.manual_seed(int(torch.randint(2**62, (), generator=draws.shared)) + int(draws.places[0]))
        if self.auxiliary is not None:
            drawn["progress"] = [draws.progress] * len(latents)
        if self.entangled is not None:
            drawn["class_noise"] = draws.normal(self.entangled.features)
        return self._with_image(drawn, draws)

    @property
    def draws(self) -> bool:
        """Whether the network or its adapter draws random numbers by itself, in training."""
        dropout = 0.0 if self.adapter is None else self.adapter.dropout
        return bool(dropout) or getattr(self.backbone, "draws", False)

    def mask_ratio(self, progress: float) -> float:
        """Share of patches that a step masks when so much of the training is done."""
        if self.final_mask_ratio is None:
            return self.train_mask_ratio
        return self.train_mask_ratio + progress * (self.final_mask_ratio - self.train_mask_ratio)

    def draw_eval(self, batch: Batch, draws: Draws) -> Batch:
        """Noise levels spread evenly over their distribution, nothing masked, no caption dropped."""
        quantile = (draws.places.clamp(max=draws.total - 1) + 0.5) / draws.total  # the places of repeats lie beyond
        latents = batch["latents"]
        noise = draws.normal(*latents.shape[1:])
        drawn = {**self._with_features(batch), "level_normal": torch.special.ndtri(quantile), "noise": noise}
        if self.entangled is not None and (token := class_token_of(self.backbone)) is not None:
            drawn["class_noise"] = draws.normal(self.entangled.features)
            cells = torch.ones_like(latents[:, :1], dtype=torch.bool)
            drawn["loss_mask"] = token.join_mask(cells, latents.shape[1], value=False)
        return self._with_image(drawn, draws)

    def _with_image(self, batch: Batch, draws: Draws) -> Batch:
        """The batch with what its samples are conditioned on besides captions."""
        if self.image_conditioner is None:
            return batch
        image, level, loss_mask = self.image_conditioner.in_training(batch["latents"], draws)
        made = {"image": image, "image_level": level, "loss_mask": loss_mask}
        return batch | {key: value for key, value in made.items() if value is not None}

    def _with_features(self, batch: Batch) -> Batch:
        """The batch with caption_tokens (B, L, D) in place of token ids."""
        if self.text_encoder is None:
            return batch
        ids = TokenIds(batch["caption_ids"], batch["caption_mask"])
        self.text_encoder.to(ids.ids.device)
        tokens = self.text_encoder.encode_ids(ids).tokens
        return {key: value for key, value in batch.items() if key != "caption_ids"} | {"caption_tokens": tokens}

    def forward(self, batch: Batch) -> Loss | WithTerms:
        """A batch with its random numbers drawn -> the loss of each sample, and further losses where there are some."""
        if self.auxiliary is None:
            return self._loss(batch, contrast=self.contrast)
        progress: float = batch["progress"][0]
        with self.auxiliary.listening(progress):
            own = self._loss(batch, contrast=self.contrast)
        latents = batch["latents"].float()
        image = slice(latents.shape[2])  # without the rows of a class token below it
        visible = None if own.visible is None else own.visible[:, :, image]
        with self.cpu_autocast(latents.device):
            step = Step(latents, own.denoised[:, :, image], own.sigma, visible, batch.get("keep"), self._grid(latents))
            return WithTerms(own, self.auxiliary(step, progress))

    def _loss(self, batch: Batch, **how: Any) -> Loss:
        image, level = batch.get("image"), batch.get("image_level")
        condition = Condition(batch["caption_tokens"], batch["caption_mask"], image, level)
        if "caption_dropped" in batch:
            condition = condition.dropped(batch["caption_dropped"])
        latents, noise = batch["latents"], batch["noise"]
        with self.cpu_autocast(latents.device):
            if self.entangled is not None and (token := class_token_of(self.backbone)) is not None:
                vector = self.entangled(latents.float(), self._grid(latents))
                latents, noise = token.join(latents.float(), vector), token.join(noise, batch["class_noise"])
            return self.objective.loss(
                self.backbone,
                latents,
                condition.to(torch.float32),
                level_normal=batch["level_normal"],
                noise=noise,
                keep=batch.get("keep"),
                **({"loss_mask": batch["loss_mask"]} if "loss_mask" in batch else {}),
                **{key: value for key, value in how.items() if value},
            )

    def _grid(self, latents: Tensor) -> tuple[int, int]:
        """Rows and columns of the patches of latents (B, C, h, w)."""
        height, width = latents.shape[-2:]
        return height // self.backbone.patch_size, width // self.backbone.patch_size

    def loss(self, outputs: Loss | WithTerms, batch: Batch) -> Tensor | dict[str, Tensor]:
        """The mean over the batch; with further losses all of them, and their weighted sum as "total"."""
        if isinstance(outputs, Loss):
            return outputs.per_sample.mean()
        assert self.auxiliary is not None
        own = outputs.own.per_sample.mean()
        return {"total": own + self.auxiliary.weighted(outputs.terms), "objective": own, **outputs.terms}

    def eval_forward(self, batch: Batch, outputs: Loss | None = None) -> Loss:
        """The same as `forward`, at the noise levels of the evaluation."""
        return self._loss(batch, measure=self.eval_objective) if outputs is None else outputs

    def get_metrics(self, is_train: bool = False) -> dict[str, Metric]:
        """Evaluation losses; training reports its loss by itself."""
        return {} if is_train else self.metrics

    def update_metric(self, batch: Batch, outputs: Loss, metric: Metric) -> None:
        """Count the losses of a batch that fall into the metric's band, each sample once over all ranks."""
        counted = ~batch["repeated"] if "repeated" in batch else slice(None)
        metric.update(outputs.per_sample[counted], outputs.sigma[counted])

    def save(self, folder: Path, weights: Weights, state: dict[str, Tensor], batches: Iterable[Batch]) -> None:
        """Write the backbone's weights with plain keys, with an adapter added to them and also alone."""
        if self.adapter is not None:
            self.adapter.write(folder, weights, state)
            state = self.adapter.merged(self.network, state)
        save_weights(folder, state, weights)


def random_squares(latents: Tensor, side: int, place: Tensor) -> Tensor:
    """(B, C, h, w), place (B, 2) uniform in [0, 1) -> (B, C, side, side): one square of each, anywhere.

    Raises ValueError for a square that is larger than the latents.
    """
    height, width = latents.shape[-2:]
    if not 1 <= side <= min(height, width):
        raise ValueError(
            f"model.train_crop is {side}, but the latents have {height}×{width} cells; set it to at most the shorter "
            "side, or to null"
        )
    free = torch.tensor([height - side + 1, width - side + 1])
    corners = (place * free).long().tolist()
    rows = zip(latents, corners, strict=True)
    return torch.stack([row[:, top : top + side, left : left + side] for row, (top, left) in rows])


def _check_masking(backbone: Backbone, mask_ratio: float) -> None:
    """Raise ValueError for a share of masked patches that the backbone cannot have."""
    if backbone.takes_keep:
        kept_patches(backbone.patches, mask_ratio)  # pyright: ignore[reportAttributeAccessIssue]
    elif mask_ratio:
        raise ValueError(
            f"model.train_mask_ratio is {mask_ratio}, but {type(backbone).__name__} cannot leave out patches; set "
            "model.train_mask_ratio=0"
        )


def _check_entangled(backbone: Backbone, entangled: Entanglement | None, train_crop: int | None) -> None:
    """Raise ValueError for a class token of another size than the vector that is made, or one of parts of latents."""
    takes, made = class_features(backbone), 0 if entangled is None else entangled.features
    if takes != made:
        makes = "is null, so there is no vector for it" if entangled is None else f"makes a vector of {made}"
        other = "choose an +entangled of that size" if takes else "leave out +entangled"
        raise ValueError(
            f"backbone.class_token is {takes}, but model.entangled {makes}; set backbone.class_token={made}, or {other}"
        )
    if entangled is not None and train_crop is not None:
        raise ValueError(
            f"model.train_crop is {train_crop}, but model.entangled sees whole latents; set model.train_crop=null, or "
            "leave out +entangled"
        )


class BandLoss(Metric):
    """Mean loss of the samples whose noise level lies in [low, high); nan when there was none.

    Args:
        low: lowest sigma of the band.
        high: sigma at which the next band begins.
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, per_sample: Tensor, sigma: Tensor) -> None:
        """per_sample (B,), sigma (B,)."""
        inside = (sigma >= self.low) & (sigma < self.high)
        self.total += per_sample[inside].float().sum()
        self.count += inside.sum()

    def compute(self) -> Tensor:
        """The mean, ()."""
        return self.total / self.count
