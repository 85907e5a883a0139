"""What identifies the weights of an encoder, stored beside whatever it made."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def weights_digest(network: nn.Module) -> str:
    """64 bits of the names and values of all weights, in hexadecimal.

    Values count as rounded to bfloat16, so that copies in float32 and bfloat16 have the same digest.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().reshape(-1).to("cpu", torch.bfloat16).view(torch.int16).numpy())
    return digest.hexdigest()
