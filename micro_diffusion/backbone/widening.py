"""A trained network that is given a conditioning image besides: new weights that change nothing at first."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

_OF_IMAGE = "image_"


def widened(state: Mapping[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """The weights of a network without conditioning image, as those of `backbone`, which is the same with one.

    Its first prediction then equals that of the network without, whatever the image. `backbone.Backbone` says which
    parameters are the image's. Weights that the state has keep their values; whatever else is different stays so, and
    loading it names the differences.
    """
    channels = getattr(backbone, "image_channels", 0)
    own, wide = backbone.state_dict(), dict(state)
    if not channels or any(_is_of_image(key) for key in state):
        return wide
    for key, value in own.items():
        given = state.get(key)
        if given is None and _is_of_image(key):
            wide[key] = value.detach().clone()
        elif given is not None and _lacks_image(given, value, channels):
            zeros = given.new_zeros(len(given), channels, *given.shape[2:])
            wide[key] = torch.cat([given, zeros], dim=1)
    return wide


def _is_of_image(key: str) -> bool:
    return any(name.startswith(_OF_IMAGE) for name in key.split("."))


def _lacks_image(given: Tensor, own: Tensor, channels: int) -> bool:
    """Whether a weight (out, inputs, …) is as that of the network, but for its last inputs, which see the image."""
    return given.ndim >= 2 and own.shape == (len(given), given.shape[1] + channels, *given.shape[2:])
