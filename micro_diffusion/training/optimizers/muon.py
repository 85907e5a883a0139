"""Muon: momentum orthogonalised by Newton–Schulz iterations, for hidden matrices; AdamW for everything else.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks", kellerjordan.github.io/posts/muon.
Legend: S matrices of one shape, m rows, n columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from composer.utils import dist
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw as adamw_update

from micro_diffusion.backbone.backbone import ParameterGroup
from micro_diffusion.bounds import FractionBelow1, NonNegativeFloat, PositiveFloat, PositiveInt
from micro_diffusion.machine.precision import has_bf16
from micro_diffusion.training.distributed.sharding import sharded, whole
from micro_diffusion.training.optimizers.hyperparameters import Betas, optimizer_groups

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of x → a·x + b·x³ + c·x⁵ that lift small singular values fastest (Jordan et al. 2024)."""


class Muon(Optimizer):
    """One optimizer object, so that schedules, clipping and checkpoints need to know of one only.

    Matrices of the same shape, and stacks of them such as the weights of experts, take their step in one batched
    product; sharded ones are gathered for it. Of several ranks each orthogonalises some of the matrices, and gets the
    others from the rest. A parameter of two axes is (out, in) as in nn.Linear; one of three is a stack of (in, out); a
    kernel of four is the matrix (out, in·h·w).

    Args:
        groups: every trainable parameter, once; those with `matrices` take Muon's step, the others AdamW's.
        lr: base learning rate of AdamW's parameters, times the group's lr_scale.
        matrix_lr_scale: Muon's learning rate over lr, above 0; a step has about the spectral norm
            lr·matrix_lr_scale·lr_scale·sqrt(max(1, out/in)).
        momentum: of Muon, Nesterov's, in [0, 1).
        steps: Newton–Schulz iterations, at least 1.
        betas: of AdamW.
        eps: of AdamW.
        weight_decay: decoupled, times the group's learning rate; only where the group decays.

    Raises:
        ValueError: when no group holds matrices, or weights are not fp32.
    """

    def __init__(
        self,
        groups: Sequence[ParameterGroup],
        *,
        lr: NonNegativeFloat,
        matrix_lr_scale: PositiveFloat,
        momentum: FractionBelow1,
        steps: PositiveInt,
        betas: Betas,
        eps: PositiveFloat,
        weight_decay: NonNegativeFloat,
    ) -> None:
        if not any(group["matrices"] for group in groups):
            raise ValueError(
                "this model has no hidden matrices, so Muon would leave all of it to AdamW; set optimizer=adamw"
            )
        if any(parameter.dtype != torch.float32 for group in groups for parameter in group["parameters"]):
            raise ValueError("Muon takes weights in fp32; set model.weight_dtype=fp32 or optimizer=adamw")
        super().__init__(
            [
                made
                | {"matrices": group["matrices"], "lr": made["lr"] * (matrix_lr_scale if group["matrices"] else 1.0)}
                for made, group in zip(optimizer_groups(groups, lr=lr, weight_decay=weight_decay), groups, strict=True)
            ],
            {
                "momentum": momentum,
                "steps": steps,
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
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters and group["matrices"]:
                self._muon_step(group, parameters)
            elif parameters:
                self._adamw_step(group, parameters)
        return loss

    def _muon_step(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        gradients = [p.grad for p in parameters if p.grad is not None]
        buffers = [self._state(p, "momentum_buffer") for p in parameters]
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        directions = [gradient.clone() for gradient in gradients]
        torch._foreach_lerp_(directions, buffers, group["momentum"])  # Nesterov: look one step ahead
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        together = list(_same_shape(parameters).values())
        sizes = [_matrices(parameters[indices[0]].shape, len(indices)) for indices in together]
        ranks = dist.get_world_size()
        updates = []
        for indices, size, owners in zip(together, sizes, share_out(sizes, ranks), strict=True):
            matrices = torch.stack([whole(directions[i]) for i in indices]).view(size)
            updates.append(_orthogonalized(matrices, owners, steps=group["steps"]))
        for indices, (_, rows, columns), update in zip(together, sizes, updates, strict=True):
            if ranks > 1:
                dist.all_reduce(update)  # to which the other ranks add zeros
            stack = [parameters[i] for i in indices]
            fan_in, fan_out = (rows, columns) if stack[0].ndim == 3 else (columns, rows)
            scale = group["lr"] * max(1.0, fan_out / fan_in) ** 0.5
            updated = update.view(len(stack), *stack[0].shape)
            parts = [sharded(part, like=parameter) for part, parameter in zip(updated, stack, strict=True)]
            torch._foreach_add_(stack, parts, alpha=-scale)

    def _adamw_step(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        steps = [self._state(p, "step", scalar=True) for p in parameters]
        adamw_update(
            parameters,
            [p.grad for p in parameters if p.grad is not None],
            [self._state(p, "exp_avg") for p in parameters],
            [self._state(p, "exp_avg_sq") for p in parameters],
            [],
            steps,
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _state(self, parameter: Tensor, name: str, *, scalar: bool = False) -> Tensor:
        state = self.state[parameter]
        if name not in state:
            state[name] = torch.zeros((), device=parameter.device) if scalar else torch.zeros_like(parameter)
        return state[name]


def orthogonalize(matrices: Tensor, *, steps: int) -> Tensor:
    """(S, m, n) -> (S, m, n) with singular values near 1 and the same singular vectors (about U·Vᵀ).

    Computed in bfloat16, as in Jordan et al. 2024, where the device multiplies it fast, and in float32 elsewhere.
    """
    a, b, c = QUINTIC
    x = matrices.to(torch.bfloat16 if has_bf16(matrices.device.type) else torch.float32)
    transposed = x.shape[-2] > x.shape[-1]
    if transposed:  # the products below are of the smaller side squared
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if transposed else x


def _orthogonalized(matrices: Tensor, owners: Sequence[int], *, steps: int) -> Tensor:
    """Those of this rank, in the dtype of all of them, and zeros in place of the others."""
    ours = [i for i, owner in enumerate(owners) if owner == dist.get_global_rank()]
    if len(ours) == len(owners):
        return orthogonalize(matrices, steps=steps).to(matrices.dtype).contiguous()
    made = torch.zeros_like(matrices)
    if ours:
        made[ours] = orthogonalize(matrices[ours], steps=steps).to(matrices.dtype)
    return made


def share_out(sizes: Sequence[tuple[int, int, int]], ranks: int) -> list[list[int]]:
    """The rank of each matrix of stacks (S, m, n): the dearest first, each for the rank with the least to do so far."""
    costs = [min(m, n) * m * n for _, m, n in sizes]
    owners: list[list[int]] = [[] for _ in sizes]
    loads = [0] * ranks
    for i in sorted(range(len(sizes)), key=lambda i: -costs[i]):
        for _ in range(sizes[i][0]):
            owner = loads.index(min(loads))
            loads[owner] += costs[i]
            owners[i].append(owner)
    return owners


def _matrices(shape: torch.Size, count: int) -> tuple[int, int, int]:
    """(S, m, n) of so many parameters of a shape."""
    if len(shape) == 3:
        return count * shape[0], shape[1], shape[2]
    return count, shape[0], shape[1:].numel()


def _same_shape(parameters: Sequence[Tensor]) -> dict[torch.Size, list[int]]:
    """Indices of the parameters of each shape."""
    indices: dict[torch.Size, list[int]] = {}
    for i, parameter in enumerate(parameters):
        indices.setdefault(parameter.shape, []).append(i)
    return indices
