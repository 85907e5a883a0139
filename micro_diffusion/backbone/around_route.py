"""A backbone without the blocks of its route: the weak network of path-drop guidance, at a fraction of the cost.

Park et al. 2025, "SPRINT", arXiv 2510.21986, section 3.4.
Legend: B batch, C latent channels, h w latent cells.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from micro_diffusion.backbone.backbone import Backbone, Prediction


class AroundRoute:
    """The same backbone, around whose route every patch goes.

    Args:
        backbone: trained with `route_drop`.

    Raises:
        ValueError: when it was not.
    """

    def __init__(self, backbone: Backbone) -> None:
        if not getattr(backbone, "draws", False):
            raise ValueError(
                "the network was not trained without its route now and then, so nothing can be guided away from that; "
                "train with backbone.route_drop=0.1, or choose a weaker run"
            )
        self.backbone = backbone

    def __getattr__(self, name: str) -> Any:
        """All else is the backbone's."""
        return getattr(self.backbone, name)

    def __call__(self, x: Tensor, level: Tensor, condition: Any, keep: None = None) -> Prediction:
        """x (B, C, h, w), level (B,), condition -> Prediction of all patches."""
        return self.backbone(x, level, condition, torch.empty(len(x), 0, dtype=torch.int64, device=x.device))
