"""The game between an autoencoder and a discriminator (Esser et al. 2021, section 3.1)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from micro_diffusion.autoencoder.patch_discriminator import PatchDiscriminator
from micro_diffusion.bounds import NonNegativeFloat, NonNegativeInt

LARGEST_WEIGHT = 1e4
"""Bound of the adaptive weight, which grows without end where the discriminator's gradient vanishes."""


class Judgement(NamedTuple):
    """What a discriminator thinks of reconstructions and originals; means over patches and images, ().

    loss: the discriminator's. real, fake: its logits.
    """

    loss: Tensor
    real: Tensor
    fake: Tensor


class Adversarial(nn.Module):
    """A discriminator, and what its judgement is worth to the autoencoder.

    Args:
        discriminator: the network that judges; see `PatchDiscriminator`.
        loss: "hinge" (Lim & Ye 2017), or "softplus", the cross entropy of Goodfellow et al. 2014 with the generator's
            loss that does not saturate.
        weight: of the generator's loss, where 1 means, with `adaptive`, as strong a pull at the last layer as that of
            the reconstruction.
        start: the step from which on the autoencoder feels the discriminator.
        lead: so many steps before that the discriminator begins to learn.
        adaptive: multiply the weight by the ratio of gradient norms, see `adaptive_weight`.
        lr_scale: the discriminator's learning rate over `optimizer.lr`.

    Raises:
        ValueError: for a lead before the first step.
    """

    def __init__(
        self,
        *,
        discriminator: PatchDiscriminator,
        start: NonNegativeInt,
        loss: Literal["hinge", "softplus"] = "hinge",
        weight: NonNegativeFloat = 0.5,
        lead: NonNegativeInt = 0,
        adaptive: bool = True,
        lr_scale: NonNegativeFloat = 1.0,
    ) -> None:
        super().__init__()
        if lead > start:
            raise ValueError(
                f"model.adversarial.lead is {lead}, which begins before training, as start is {start}; set lead to at "
                f"most {start}"
            )
        self.discriminator = discriminator
        self.kind = loss
        self.weight = weight
        self.start = start
        self.first_lesson = start - lead
        self.adaptive = adaptive
        self.lr_scale = lr_scale

    def judge(self, images: Tensor, originals: Tensor) -> Judgement:
        """The discriminator's loss on reconstructions and originals, (B, 3, H, W) each; none reaches `images`."""
        fake, real = self.discriminator(torch.cat([images.detach(), originals])).float().chunk(2)
        if self.kind == "hinge":
            loss = (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
        else:
            loss = (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2
        return Judgement(loss, real.mean().detach(), fake.mean().detach())

    def generator_loss(self, images: Tensor) -> Tensor:
        """How little reconstructions (B, 3, H, W) pass for real, (); its gradient leaves the discriminator alone."""
        constants = {name: value.detach() for name, value in self.discriminator.state_dict(keep_vars=True).items()}
        logits = functional_call(self.discriminator, constants, (images,)).float()
        return -logits.mean() if self.kind == "hinge" else F.softplus(-logits).mean()

    def silence(self) -> Tensor:
        """A zero to which every parameter belongs, (), for steps before the first lesson.

        Several ranks wait for the gradients of all parameters; these are zeros, which leave the weights as they are.
        """
        return 0.0 * torch.stack([parameter.sum() for parameter in self.discriminator.parameters()]).sum()


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: nn.Parameter) -> Tensor:
    """‖∇reconstruction‖ / ‖∇adversarial‖ at the last layer of the decoder, (), at most 1e4 (Esser et al. 2021, eq. 7).

    Each microbatch of each rank has its own, so that with it a training depends on how its batches are cut.

    Raises:
        FloatingPointError: when one of the norms is no finite number.
    """
    norms = [
        torch.linalg.vector_norm(torch.autograd.grad(loss, last_layer, retain_graph=True)[0].float())
        for loss in (reconstruction, adversarial)
    ]
    weight = (norms[0] / (norms[1] + 1e-4)).clamp(max=LARGEST_WEIGHT)
    if not weight.is_meta and not torch.isfinite(torch.stack(norms)).all():  # what is only counted has no value
        raise FloatingPointError(
            f"the adversarial weight is not finite: at the last layer, the gradient of the reconstruction is "
            f"{norms[0].item()} and the adversarial one {norms[1].item()}; lower optimizer.lr or "
            "model.adversarial.lr_scale, or set model.adversarial.adaptive=false"
        )
    return weight.detach()
