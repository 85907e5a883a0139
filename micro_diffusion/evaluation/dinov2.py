"""DINOv2 (Oquab et al. 2023) as the feature network of FD-DINOv2 (Stein et al. 2023)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from micro_diffusion.files.provenance import weights_digest
from micro_diffusion.representation.dino import DEVIATION, MEAN, load_dino

SIDE = 224


class DINOv2:
    """The class token after the last norm, of images resized to 224 pixels, bicubic and antialiased.

    Args:
        folder: a transformers folder, of facebook/dinov2-large for published numbers.
        device: where it works.

    Raises:
        FileNotFoundError: when there is none.
        ValueError: when it holds another kind of model.
    """

    def __init__(self, *, folder: Path, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(
                f"there is no config.json in {folder}, which fd_dinov2 needs; fetch facebook/dinov2-large there with "
                "`huggingface-cli download`, or name the folder above it with --networks"
            )
        self.network = load_dino(folder, ("Dinov2",)).to(self.device)
        self.identity = {
            "network": "dinov2",
            "weights": weights_digest(self.network),
            "resize": f"{SIDE} bicubic antialiased",
        }

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> float32 (B, D) on the CPU."""
        resized = functional.resize(images, [SIDE, SIDE], interpolation=functional.InterpolationMode.BICUBIC)
        scaled = functional.normalize(resized.to(self.device).float() / 255, MEAN, DEVIATION)
        return self.network(pixel_values=scaled).last_hidden_state[:, 0].float().cpu()
