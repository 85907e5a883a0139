"""AdamW for matrices that are stored in bf16: 12 bytes a number with its gradient, where fp32 and its copies take 18.

A weight is stored as the bf16 number that the network sees and the 16 bits by which fp32 differs from it, so that small
steps are not lost, as they would be in bf16 alone. The second moment, which changes by a thousandth a step, is an fp32
number; the first, which changes by a tenth, one in bf16, within a few percent of its value. The 16 bits and the second
moment go under the name of bf16, since `Optimizer.load_state_dict` makes all of a parameter's state its dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from micro_diffusion.backbone.backbone import ParameterGroup
from micro_diffusion.bounds import NonNegativeFloat, PositiveFloat
from micro_diffusion.training.optimizers.hyperparameters import Betas, optimizer_groups

NUMBERS_AT_ONCE = {"cpu": 2**20, "cuda": 2**26}
"""That are fp32 for a moment: on a CPU as many as its caches hold."""


class CompactAdamW(Optimizer):
    """AdamW (Loshchilov & Hutter 2019) over bf16 and fp32 parameters; the latter have plain fp32 moments.

    Args:
        groups: every trainable parameter, once.
        lr: base learning rate, times the group's lr_scale.
        betas: decay of the first and second moments.
        eps: added to the root of the second moment.
        weight_decay: decoupled, times lr; only where the group decays.
    """

    def __init__(
        self,
        groups: Sequence[ParameterGroup],
        *,
        lr: NonNegativeFloat,
        betas: Betas,
        eps: PositiveFloat,
        weight_decay: NonNegativeFloat,
    ) -> None:
        super().__init__(
            optimizer_groups(groups, lr=lr, weight_decay=weight_decay),
            {
                "betas": tuple(betas),
                "eps": eps,
                "fused": True,  # which has `load_state_dict` bring the steps to the parameters' device
            },
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(group, parameter, parameter.grad)
        return loss

    def _update(self, group: dict[str, Any], parameter: Tensor, gradient: Tensor) -> None:
        state = self.state[parameter]
        split = parameter.dtype == torch.bfloat16
        if not state:
            state["step"] = torch.zeros((), device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter, dtype=torch.float32).view(parameter.dtype)
            if split:
                state["rest"] = torch.zeros_like(parameter)
        state["step"] += 1
        square = state["exp_avg_sq"].view(torch.float32)
        if not split:
            _adamw(group, state["step"], parameter, gradient, state["exp_avg"], square)
            return
        for weight, rest, slope, mean, piece in _pieces(parameter, state["rest"], gradient, state["exp_avg"], square):
            exact, exact_mean = _joined(weight, rest), mean.float()
            _adamw(group, state["step"], exact, slope.float(), exact_mean, piece)
            mean.copy_(exact_mean)
            _split(exact, weight, rest)


def _adamw(group: dict[str, Any], step: Tensor, weight: Tensor, gradient: Tensor, mean: Tensor, square: Tensor) -> None:
    """torch's own fused update of fp32 tensors, in place."""
    torch._fused_adamw_(
        [weight],
        [gradient],
        [mean],
        [square],
        [],
        [step],
        lr=group["lr"],
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        amsgrad=False,
        maximize=False,
    )


def _joined(first: Tensor, rest: Tensor) -> Tensor:
    """A bf16 number and the bits by which fp32 differs from it -> that fp32 number."""
    exact = first.float()
    exact.view(torch.int32).add_(rest.view(torch.int16))
    return exact


def _split(exact: Tensor, first: Tensor, rest: Tensor) -> None:
    """The inverse of `_joined`, bit for bit; ties round away from zero. What `exact` holds is lost."""
    bits = exact.view(torch.int32)
    rest.view(torch.int16).copy_(bits)  # the lower half, which counts from -2¹⁵
    first.view(torch.int16).copy_(bits.add_(2**15).bitwise_right_shift_(16))


def _pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Flat views of so many numbers that fp32 copies of them take little room."""
    size = NUMBERS_AT_ONCE.get(tensors[0].device.type, NUMBERS_AT_ONCE["cpu"])
    return zip(*(tensor.view(-1).split(size) for tensor in tensors), strict=True)
