"""What a piece of work costs, counted as it happens; on devices without data nothing is computed for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

aten = torch.ops.aten
Shape = Sequence[int]


def count_flops(work: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products and convolutions in a piece of work."""
    with FlopCounterMode(display=False, custom_mapping={aten.convolution_backward: _convolution_backward}) as counter:
        work()
    return counter.get_total_flops()


def _convolution_backward(grad_out: Shape, x: Shape, weight: Shape, *rest: Any, out_shape: Any = None, **_: Any) -> int:
    """Each of both gradients takes as many operations as the convolution; torch's own count forgets its groups."""
    _bias, _stride, _padding, _dilation, transposed, _output_padding, _groups, wanted = rest
    places = (x if transposed else grad_out)[2:]
    return (wanted[0] + wanted[1]) * 2 * math.prod(weight) * grad_out[0] * math.prod(places)


def count_saved_bytes(work: Callable[[], object], network: nn.Module) -> int:
    """Bytes that a forward pass keeps for its backward pass, the network's own weights left out."""
    weights = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage._cdata] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = work()  # while its result lives, no storage is given away to another tensor
    del kept
    return sum(size for storage, size in saved.items() if storage not in weights)
