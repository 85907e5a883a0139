"""The Inception-v3 of FID, by torch-fidelity, which repeats TensorFlow's graph to the resizing of its input."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FILES = ("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth")
"""Names of the file of weights, as torch-fidelity and pytorch-fid publish it."""


class Inception:
    """The 2048 features of Inception-v3's last average pooling, with the weights of 2015-12-05 that FID is defined by.

    Images of any size are resized to 299 pixels by TensorFlow 1's bilinear interpolation without antialiasing.

    Args:
        folder: holds one of FILES.
        device: where it works.

    Raises:
        FileNotFoundError: when no file of weights is there.
        ModuleNotFoundError: without torch-fidelity.
        ValueError: when the file holds something else.
    """

    def __init__(self, *, folder: Path, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        path = next((folder / name for name in FILES if (folder / name).is_file()), None)
        if path is None:
            raise FileNotFoundError(
                f"there is no {FILES[0]} in {folder}, which fid, kid and precision_recall need; fetch it from "
                "https://github.com/toshas/torch-fidelity/releases/tag/v0.2.0, or name its folder with --networks"
            )
        self.network = _load(path).to(self.device)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        self.identity = {"network": "inception", "weights": digest, "resize": "299 bilinear of TensorFlow 1"}

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> float32 (B, 2048) on the CPU."""
        return self.network(images.to(self.device))[0].float().cpu()


def _load(path: Path) -> Any:
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import (  # pyright: ignore[reportMissingImports]
            FeatureExtractorInceptionV3,
        )
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the Inception network of fid, kid and precision_recall comes from torch-fidelity, which is not installed; "
            "pip install torch-fidelity"
        ) from error
    try:
        torch.load(path, weights_only=True, map_location="cpu")  # torch-fidelity would run code that a file holds
        return FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path))
    except (RuntimeError, pickle.UnpicklingError, AttributeError, TypeError, EOFError) as error:
        raise ValueError(f"{path} holds no weights of FID's Inception-v3 ({str(error).splitlines()[0]})") from error
