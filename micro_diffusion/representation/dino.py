"""DINOv2 (Oquab et al. 2023, arXiv 2304.07193) and DINOv3 (Siméoni et al. 2025, arXiv 2508.10104), from local files.

Legend: B images, C latent channels, h w latent cells, H W height and width in pixels, F width of a feature.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from micro_diffusion.autoencoder.autoencoder import Autoencoder
from micro_diffusion.autoencoder.gradients import checked, networks_of
from micro_diffusion.representation.representation import is_counted_only

MEAN, DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
"""Of ImageNet's colours."""

KINDS = ("Dinov2", "DINOv3ViT")
"""Beginnings of the names of transformers' classes."""


class Dino:
    """Features of the patches of an image that is decoded from latents and resized so that its patches are the grid.

    Args:
        folder: a transformers folder, such as of facebook/dinov2-base.
        autoencoder: that the latents were made with.

    Raises:
        FileNotFoundError: when there is none.
        ValueError: when it holds another kind of model, or the autoencoder decodes without gradients.
    """

    def __init__(self, *, folder: str, autoencoder: Autoencoder) -> None:
        self.autoencoder = checked(autoencoder)
        self.network = load_dino(Path(folder), KINDS)
        self.dim, self.patch = int(self.network.config.hidden_size), int(self.network.config.patch_size)
        self.frozen: list[nn.Module] = [self.network, *networks_of(autoencoder)]

    def features(self, latents: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, C, h, w), (rows, columns) -> (B, rows·columns, F) after the last norm; see `Representation`."""
        self.autoencoder.to(latents.device)
        images = self.autoencoder.decode_with_gradient(latents).float()
        size = [side * self.patch for side in grid]
        images = functional.interpolate(images, size=size, mode="bicubic", antialias=True)
        mean, deviation = (images.new_tensor(values)[:, None, None] for values in (MEAN, DEVIATION))
        network = self.network.to(latents.device)
        hidden = network(pixel_values=(images / 2 + 0.5 - mean) / deviation).last_hidden_state
        return hidden[:, -grid[0] * grid[1] :]  # before them stand the class token and registers


def load_dino(folder: Path, kinds: tuple[str, ...]) -> Any:
    """The frozen network of a transformers folder, whose class has one of these names, without weights when counted.

    Raises:
        FileNotFoundError: when there is none.
        ValueError: when it holds another kind of model.
    """
    from transformers import AutoConfig, AutoModel  # takes seconds, and only this needs it

    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"there is no config.json in {folder}; fetch facebook/dinov2-base there with `huggingface-cli download`"
        )
    if is_counted_only():
        model = AutoModel.from_config(AutoConfig.from_pretrained(folder, local_files_only=True))
    else:
        model = AutoModel.from_pretrained(folder, local_files_only=True)
    if not type(model).__name__.startswith(kinds):
        raise ValueError(f"{folder} holds a {type(model).__name__}; put a DINOv2 there, such as facebook/dinov2-large")
    return model.eval().requires_grad_(False)
