"""Tensors and networks that are sharded over devices (FSDP2), and the same calls for those that are not.

Every rank of a run calls these functions together: what is gathered comes from all of them.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor, in the same memory; any other tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor in one piece on every rank; any other tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def sharded(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor that every rank has in one piece, on the device of `like` and sharded as that is."""
    tensor = tensor.to(like.device)
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def whole_state(network: nn.Module) -> dict[str, Tensor]:
    """The whole weights and buffers under plain keys, on the CPU; nothing on other ranks than the first."""
    return get_model_state_dict(network, options=StateDictOptions(full_state_dict=True, cpu_offload=True))  # pyright: ignore[reportReturnType]


def trainable_weights(network: nn.Module) -> dict[str, Tensor]:
    """The trainable parameters' values by name, to be read and written; each rank's shares where it is sharded."""
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.reshard()  # an evaluation leaves gathered what a changed share would no longer agree with
    return {name: parameter.data for name, parameter in network.named_parameters() if parameter.requires_grad}


def is_sharded(network: nn.Module) -> bool:
    """Whether a call of the network needs every rank."""
    return isinstance(network, FSDPModule)


def end_backward(network: nn.Module) -> None:
    """Bring a network whose step was broken off by an exception back to its shares.

    FSDP2 does so in a callback at the end of a backward pass, which then has not run; it has no public name.
    """
    for module in network.modules():
        if isinstance(module, FSDPModule) and (state := module._get_fsdp_state())._is_root:
            state._root_post_backward_final_callback()


def layers(network: nn.Module) -> list[nn.Module]:
    """What a sharded network gathers at a time: the entries of its module lists."""
    lists = [module for module in network.modules() if isinstance(module, nn.ModuleList)]
    return [layer for entries in lists for layer in entries]


def shard_by_layer(network: nn.Module) -> None:
    """Have Composer, where it shards the network, gather its layers one at a time."""
    own = {id(layer) for layer in layers(network)}

    def is_layer(module: nn.Module) -> bool:
        if not own:
            raise ValueError(f"{type(network).__name__} has no list of layers to shard; train it with parallelism=ddp")
        return id(module) in own

    network.fsdp_wrap_fn = is_layer  # pyright: ignore[reportArgumentType]  # the name that Composer looks for
