"""What a piece of work costs, counted as it happens; on devices without data nothing is computed for it."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode


def count_flops(work: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products in a piece of work."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


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
