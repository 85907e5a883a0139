"""Cheap results that a training step computes again in its backward pass, rather than keep them until then.

Elementwise steps are a few percent of a large transformer's time, and half of what it keeps. Where no gradient is
wanted, where an image's tokens are few, and under the compiler, which chooses by itself, they are done plainly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

KEPT_BELOW = 2**15
"""Numbers in the tokens of one image below which results are kept: a small network waits for calls, not for bytes."""


def recomputed(function: Callable[..., Tensor], *inputs: Tensor, tokens: Tensor) -> Tensor:
    """function(*inputs), of which only the inputs are kept.

    function: draws nothing, and depends on no other tensor that wants a gradient.
    tokens: (B, T, D) what the layer was given, by which it is large or small.
    """
    if _plainly(tokens):
        return function(*inputs)
    made: Tensor = _Recomputed.apply(function, *inputs)  # pyright: ignore[reportAssignmentType]
    return made


def activated_product(activation: Callable[..., Tensor], weight: Tensor, *inputs: Tensor, tokens: Tensor) -> Tensor:
    """The product of activation(*inputs), (..., H), with a weight, of which inputs and weight are kept -> (..., D).

    activation: maps each element by itself; draws nothing.
    weight: (D, H) as of nn.Linear, or one for each expert, (E, H, D), with inputs (E, N, H).
    tokens: (B, T, D) what the layer was given, by which it is large or small.
    """
    if _plainly(tokens):
        return _product(activation(*inputs), weight)
    weight = weight.to(inputs[0].dtype)  # as autocast does
    made: Tensor = _ActivatedProduct.apply(activation, weight, *inputs)  # pyright: ignore[reportAssignmentType]
    return made


def modulated_norm(norm: nn.LayerNorm | nn.RMSNorm, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """norm(x)·(1 + scale) + shift (adaptive layer norm; Peebles & Xie 2023, arXiv 2212.09748).

    x (B, T, D), shift and scale (B, 1, D) -> (B, T, D), computed in the wider dtype of x and the norm's weight, and
    rounded to that of shift: products made that, so the next ones take it. Only what enters is kept.

    norm: has a weight, and no bias.
    """
    if isinstance(norm, nn.RMSNorm):

        def root_mean_square(x: Tensor, weight: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
            wide = x.to(torch.promote_types(x.dtype, weight.dtype))
            normed = functional.rms_norm(wide, wide.shape[-1:], weight, eps=norm.eps)
            return (normed * (1 + scale) + shift).to(shift.dtype)

        return recomputed(root_mean_square, x, norm.weight, shift, scale, tokens=x)
    if _plainly(x):
        wide = x.to(torch.promote_types(x.dtype, norm.weight.dtype))
        normed = functional.layer_norm(wide, wide.shape[-1:], norm.weight, eps=norm.eps)
        return (normed * (1 + scale) + shift).to(shift.dtype)
    made: Tensor = _ModulatedNorm.apply(norm.eps, x, norm.weight, shift, scale)  # pyright: ignore[reportAssignmentType]
    return made


def _product(x: Tensor, weight: Tensor) -> Tensor:
    return functional.linear(x, weight) if weight.ndim == 2 else torch.bmm(x, weight)


def _plainly(tokens: Tensor) -> bool:
    return not torch.is_grad_enabled() or torch.compiler.is_compiling() or tokens.shape[1:].numel() < KEPT_BELOW


class _Recomputed(torch.autograd.Function):
    """Any function of tensors."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Keeps the inputs."""
        ctx.function = function
        ctx.save_for_backward(*inputs)
        return function(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the inputs."""
        made, inputs = again(ctx.function, ctx.saved_tensors)
        return None, *torch.autograd.grad(made, inputs, gradient)


class _ModulatedNorm(torch.autograd.Function):
    """layer_norm(x)·weight·(1 + scale) + shift, without the passes that `_Recomputed` would make once more."""

    @staticmethod
    def forward(ctx: Any, eps: float, x: Tensor, weight: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """Keeps x, weight and scale, and mean and inverse deviation of x."""
        ctx.eps = eps
        wide = x.to(torch.promote_types(x.dtype, weight.dtype))
        normed, mean, inverse = torch.native_layer_norm(wide, wide.shape[-1:], weight, None, eps)
        ctx.save_for_backward(x, weight, scale, mean, inverse)
        return normed.mul_(1 + scale).add_(shift).to(shift.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, weight, shift and scale."""
        x, weight, scale, mean, inverse = ctx.saved_tensors
        shape, wide = x.shape[-1:], x.to(torch.promote_types(x.dtype, weight.dtype))
        gradient = gradient.to(wide.dtype)
        normed = torch.native_layer_norm(wide, shape, weight, None, ctx.eps)[0]
        grad_shift, grad_scale = (y.sum(dim=1, keepdim=True).to(scale.dtype) for y in (gradient, normed.mul_(gradient)))
        grad_normed = gradient * (1 + scale)
        mask = [True, True, False]
        grad_x, grad_weight, _ = torch.ops.aten.native_layer_norm_backward(  # pyright: ignore[reportCallIssue]
            grad_normed, wide, shape, mean, inverse, weight, None, mask
        )
        return None, grad_x.to(x.dtype), grad_weight, grad_shift, grad_scale


class _ActivatedProduct(torch.autograd.Function):
    """_product(activation(*inputs), weight)."""

    @staticmethod
    def forward(ctx: Any, activation: Callable[..., Tensor], weight: Tensor, *inputs: Tensor) -> Tensor:
        """Keeps weight and inputs."""
        ctx.activation = activation
        ctx.save_for_backward(weight, *inputs)
        return _product(activation(*inputs), weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of weight and inputs."""
        weight, *kept = ctx.saved_tensors
        activated, inputs = again(ctx.activation, kept)
        is_trained, grad_weight = ctx.needs_input_grad[1], None  # not where adapters are trained beside it
        if weight.ndim == 2:
            if is_trained:
                grad_weight = gradient.flatten(0, -2).mT @ activated.detach().flatten(0, -2)
            gradients = torch.autograd.grad(activated, inputs, gradient @ weight)
        else:
            if is_trained:
                grad_weight = torch.bmm(activated.detach().mT, gradient)
            gradients = torch.autograd.grad(activated, inputs, torch.bmm(gradient, weight.mT))
        return None, grad_weight, *gradients


@torch.enable_grad()
def again(function: Callable[..., Any], kept: Sequence[Tensor]) -> tuple[Any, list[Tensor]]:
    """function of the kept tensors once more, and these tensors, for gradients."""
    inputs = [tensor.detach().requires_grad_() for tensor in kept]
    return function(*inputs), inputs
