"""The seam for losses beside that of the objective: what they see of a training step, and who adds them up.

Legend: B batch, C latent channels, h w latent cells, K kept patches.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from micro_diffusion.backbone.backbone import Backbone, ParameterGroup, parameter_group
from micro_diffusion.training.auxiliary.tap import Tap


class Step(NamedTuple):
    """What a training step has made of a batch, after the backbone's call.

    latents: (B, C, h, w), clean. denoised: of the same shape, the predicted x0. sigma: (B,), noise std.
    visible: (B, 1, h, w) bool, the cells that were predicted and whose loss counts, or None for all.
    keep: (B, K) indices of the patches that were not masked, or None. grid: rows and columns of all patches.
    """

    latents: Tensor
    denoised: Tensor
    sigma: Tensor
    visible: Tensor | None
    keep: Tensor | None
    grid: tuple[int, int]


class Auxiliary(nn.Module, ABC):
    """A further loss. Its parameters are trained and in checkpoints, but in no average and no exported file.

    Frozen networks that it looks through are no modules of it (`Representation` is none), and so nowhere of these.

    Args:
        weight: of the loss, against that of the objective.
        until: share of the training after which it ends.
    """

    def __init__(self, *, weight: float, until: float) -> None:
        super().__init__()
        self.weight, self.until = weight, until
        self.taps: list[Tap] = []

    def attach(self, backbone: Backbone) -> None:
        """Called once, before the training, by the model that has both.

        Raises ValueError for a backbone that this loss is not for.
        """

    @abstractmethod
    def forward(self, step: Step) -> Tensor:
        """The mean over the batch, ()."""

    @property
    @abstractmethod
    def frozen(self) -> list[nn.Module]:
        """The networks that it looks through."""


class Auxiliaries(nn.ModuleDict):
    """The further losses of a model, by name.

    Args:
        losses: by name; one that is None is left out.
        backbone: that is trained.

    Raises:
        ValueError: for a name that means something else.
    """

    def __init__(self, losses: Mapping[str, Auxiliary | None], backbone: Backbone) -> None:
        if taken := [name for name in losses if name in ("total", "objective") or hasattr(type(self), name)]:
            raise ValueError(f"model.auxiliary.{taken[0]} has the name of something else; call that loss otherwise")
        super().__init__({name: loss for name, loss in losses.items() if loss is not None})
        for loss in self.losses:
            loss.attach(backbone)

    @property
    def losses(self) -> list[Auxiliary]:
        """They are losses and nothing else."""
        return cast(list[Auxiliary], list(self.values()))

    @property
    def frozen(self) -> list[nn.Module]:
        """All networks that are looked through."""
        return [network for loss in self.losses for network in loss.frozen]

    @contextmanager
    def listening(self, progress: float) -> Iterator[None]:
        """The losses of this moment hear the backbone's calls for a while."""
        taps = [tap for loss in self.losses if progress < loss.until for tap in loss.taps]
        for tap in taps:
            tap.listens = True
        try:
            yield
        finally:
            for tap in taps:
                tap.listens = False

    def forward(self, step: Step, progress: float) -> dict[str, Tensor]:
        """A step when so much of the training is done -> the loss of each name, ()."""
        pairs = zip(self, self.losses, strict=True)
        return {name: loss(step) if progress < loss.until else silence(loss, step.latents) for name, loss in pairs}

    def weighted(self, terms: Mapping[str, Tensor]) -> Tensor:
        """What they add to the loss of the objective, ()."""
        return torch.stack([loss.weight * terms[name] for name, loss in zip(self, self.losses, strict=True)]).sum()

    def parameter_groups(self) -> list[ParameterGroup]:
        """Matrices, which decay, and vectors, which do not."""
        parameters = list(self.parameters())
        parts = {"matrices": [p for p in parameters if p.ndim > 1], "vectors": [p for p in parameters if p.ndim <= 1]}
        return [
            parameter_group(f"auxiliary_{kind}", part, decay=kind == "matrices") for kind, part in parts.items() if part
        ]


def silence(loss: nn.Module, like: Tensor) -> Tensor:
    """A zero to which every parameter of a loss belongs, (): several ranks wait for the gradients of all of them."""
    zero = like.new_zeros((), dtype=torch.float32)
    return 0.0 * torch.stack([zero, *(parameter.sum() for parameter in loss.parameters())]).sum()
