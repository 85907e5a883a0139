"""What every backbone offers. Legend: B batch, C latent channels, T patches, K kept patches."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, TypedDict, runtime_checkable

from torch import Tensor, nn

from micro_diffusion.condition import Condition


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


class Prediction(NamedTuple):
    """What a backbone makes of its input.

    value: (B, C, h, w); zero where `visible` is false.
    visible: (B, 1, h, w) bool, true on the cells that were predicted, or None when all were.
    """

    value: Tensor
    visible: Tensor | None = None


@runtime_checkable
class Backbone(Protocol):
    """A network that maps (noisy latents, noise level, captions) to a prediction of the latents' shape.

    Attributes:
        in_channels: C. patch_size: p, side of a patch in latent cells. caption_dim: width of a caption feature.
        use_caption_mask: whether it leaves out the rows of a caption that the mask excludes.
    """

    in_channels: int
    patch_size: int
    caption_dim: int
    use_caption_mask: bool

    def __call__(self, x: Tensor, level: Tensor, text: Condition, keep: Tensor | None = None) -> Prediction:
        """x (B, C, h, w), level (B,), keep (B, K) indices of visible patches or None -> Prediction.

        Patches are numbered row by row.
        """
        ...

    def parameter_groups(self) -> list[ParameterGroup]:
        """Every trainable parameter, exactly once."""
        ...


@runtime_checkable
class PreparedText(Protocol):
    """Null captions and then others, in a form that the backbone which made it takes in place of text."""

    def without_null(self) -> Any:
        """The others alone, in the same form."""
        ...


@runtime_checkable
class PreparesText(Protocol):
    """A backbone that does its work on captions and noise levels once for many calls."""

    def prepare(self, text: Condition, *, levels: Tensor | None = None, null_rows: int = 0) -> PreparedText:
        """`null_rows` null captions and then those of `text`.

        levels: (S,) all noise levels that it will be called with, or None when they are not known.
        """
        ...
