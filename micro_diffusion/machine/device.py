"""The device that computes."""

from __future__ import annotations

import torch


def usable_device(device: str | torch.device | None) -> torch.device:
    """A torch device that is there, the GPU where there is one and None; a ValueError when it cannot be used."""
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(name)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {str(name)!r} cannot be used on this machine; use --device cpu") from error
    return chosen
