"""Tensors in a `.safetensors` file, which notices when a byte of it has changed since it was written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from micro_diffusion.files.whole_file import has_no_room, whole_file

DIGEST = "blake2b"
"""Entry of the file's metadata with the digest of names, types, shapes and bytes of all tensors."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], **description: str) -> None:
    """Write tensors, on any device, with their digest; the file is whole or not there.

    Args:
        path: the file.
        tensors: by name.
        description: goes into the file's metadata.

    Raises:
        OSError: when there is no room for it, or it cannot be written.
    """
    # clone: safetensors refuses tensors that share memory, such as tied weights
    copies = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    try:
        with whole_file(path) as unfinished:
            unfinished.touch()
            mode = unfinished.stat().st_mode
            save_file(copies, unfinished, metadata={"format": "pt", **description, DIGEST: digest(copies)})
            unfinished.chmod(mode)  # safetensors makes files that only their owner may read
    except (SafetensorError, OSError) as error:
        if has_no_room(error):
            raise OSError(
                f"there is no room to write the weights {path}; make room and give the same command again"
            ) from error
        if isinstance(error, SafetensorError):
            raise OSError(f"the weights {path} cannot be written ({error}); name another place") from error
        raise


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a file, on the CPU; files of others, which have no digest, are taken as they are.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is no complete safetensors file, or another than was written.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no weight file {path}; give a file that training or an import has written")
    try:
        with safe_open(path, framework="pt") as file:
            written = (file.metadata() or {}).get(DIGEST)
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 — it is no dict
    except (SafetensorError, OSError, RuntimeError, TypeError) as error:
        raise ValueError(f"{path} cannot be read as safetensors ({error}); copy or train it again") from error
    if written is not None and written != digest(tensors):
        raise ValueError(f"the tensors in {path} are not those that were written (another digest); copy it again")
    return tensors


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Of names, types, shapes and bytes of tensors on the CPU."""
    digest = hashlib.blake2b(digest_size=16)
    for key, tensor in sorted(tensors.items()):
        digest.update(f"{key} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
