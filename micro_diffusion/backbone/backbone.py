"""What every backbone offers.

Legend: B batch, C latent channels, C' channels of a conditioning image, h w latent cells, K kept patches.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, TypedDict, runtime_checkable

from torch import Tensor, nn

from micro_diffusion.condition import Condition
from micro_diffusion.diffusion.image_conditioning import ImageConditioner


class ParameterGroup(TypedDict):
    """Parameters that share a treatment by the optimizer.

    name: for logs. lr_scale: factor on the base learning rate (0.5 for experts). decay: whether weight decay applies.
    matrices: true where every parameter is a hidden layer's weight matrix (or stack of them), fit for Muon.
    """

    name: str
    parameters: list[nn.Parameter]
    lr_scale: float
    decay: bool
    matrices: bool


def parameter_group(
    name: str, parameters: list[nn.Parameter], *, lr_scale: float = 1.0, decay: bool = True, matrices: bool = False
) -> ParameterGroup:
    """A group with what most of them have."""
    return {"name": name, "parameters": parameters, "lr_scale": lr_scale, "decay": decay, "matrices": matrices}


class Prediction(NamedTuple):
    """What a backbone makes of its input.

    value: (B, C, h, w); zero where `visible` is false.
    visible: (B, 1, h, w) bool, true on the cells that were predicted, or None when all were.
    """

    value: Tensor
    visible: Tensor | None = None


@runtime_checkable
class Backbone(Protocol):
    """A network that maps (noisy latents, noise level, condition) to a prediction of the latents' shape.

    A condition that it does not take is a ValueError, never ignored; `check_image` says so for images.

    Attributes:
        in_channels: C. patch_size: p, side of a patch in latent cells; a latent's sides are multiples of it.
        caption_dim: width of a caption feature.
        use_caption_mask: whether it leaves out the rows of a caption that the mask excludes.
        image_channels: C', channels of `condition.image`, which it sees beside x; 0 takes no image. Parameters that
            only the image has a use for stand in modules named image_*, or in the last C' inputs of a layer that sees
            x, and start such that the image adds nothing (backbone/widening.py).
        takes_image_level: whether it is told `condition.image_level`.
        takes_keep: whether patches can be masked. It then has `patches`, the number of an image's patches.
    """

    in_channels: int
    patch_size: int
    caption_dim: int
    use_caption_mask: bool
    image_channels: int
    takes_image_level: bool
    takes_keep: bool

    def __call__(self, x: Tensor, level: Tensor, condition: Condition, keep: Tensor | None = None) -> Prediction:
        """x (B, C, h, w), level (B,), keep (B, K) indices of visible patches or None -> Prediction.

        Patches are numbered row by row.
        """
        ...

    def parameter_groups(self) -> list[ParameterGroup]:
        """Every trainable parameter, exactly once."""
        ...


def check_image(backbone: Backbone, condition: Condition, size: tuple[int, ...]) -> None:
    """Compare a condition's image and its level with what a backbone takes at latents of `size` (h, w).

    Raises:
        ValueError: when one is missing, of another shape, or not taken.
    """
    image, channels = condition.image, backbone.image_channels
    if image is None and channels:
        raise ValueError(
            f"the network takes a conditioning image of {channels} channels, but is given none; give one, or set "
            "backbone.image_channels=0"
        )
    if image is not None and tuple(image.shape[1:]) != (channels, *size):
        takes = f"takes one of {(channels, *size)} (channels, height, width)" if channels else "takes none"
        raise ValueError(
            f"the conditioning image is {tuple(image.shape[1:])}, but the network {takes}; set backbone.image_channels "
            "to its channels, or leave it out"
        )
    if (condition.image_level is not None) != backbone.takes_image_level:
        told, wants = ("not told", "takes it") if backbone.takes_image_level else ("told", "does not take it")
        remedy = str(not backbone.takes_image_level).lower()
        raise ValueError(
            f"the noise level of the conditioning image is {told}, but the network {wants}; set "
            f"backbone.takes_image_level={remedy}, or choose another image_conditioner"
        )


def check_image_conditioner(backbone: Backbone, conditioner: ImageConditioner | None, key: str) -> None:
    """Compare the conditioning images that are made with those that a backbone takes.

    Raises:
        ValueError: that names the backbone's key and `key`, that of the conditioner.
    """
    made = 0 if conditioner is None else conditioner.channels(backbone.in_channels)
    if backbone.image_channels != made:
        gives = f"is null, so there is none; choose an {key}, or" if conditioner is None else f"gives {made};"
        raise ValueError(
            f"backbone.image_channels is {backbone.image_channels}, the channels of a conditioning image, but {key} "
            f"{gives} set backbone.image_channels={made}"
        )
    tells = conditioner is not None and conditioner.tells_level
    if backbone.takes_image_level != tells:
        does = "tells the noise level of its images" if tells else "tells no noise level of an image"
        raise ValueError(
            f"backbone.takes_image_level is {str(backbone.takes_image_level).lower()}, but {key} {does}; set "
            f"backbone.takes_image_level={str(tells).lower()}"
        )


@runtime_checkable
class PreparedText(Protocol):
    """Null conditions and then others, in a form that the backbone which made it takes in place of a condition."""

    def without_null(self) -> Any:
        """The others alone, in the same form."""
        ...


@runtime_checkable
class PreparesText(Protocol):
    """A backbone that does its work on conditions and noise levels once for many calls."""

    def prepare(self, condition: Condition, *, levels: Tensor | None = None, null_rows: int = 0) -> PreparedText:
        """The first `null_rows` conditions without text and then all of them as they are.

        levels: (S,) all noise levels that it will be called with, or None when they are not known.
        """
        ...
