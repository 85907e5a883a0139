"""CLIP (Radford et al. 2021) as a feature network of images and captions, from a folder on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from micro_diffusion.files.provenance import weights_digest


def open_clip_network(folder: Path, *, device: str | torch.device = "cpu") -> TransformersClip | OpenClip:
    """The CLIP of a folder: openai/clip-vit-large-patch14-336 for published numbers of CMMD.

    Raises:
        FileNotFoundError: when neither library's files are there.
        ValueError: when the folder holds another kind of model.
    """
    if (folder / "open_clip_config.json").is_file():
        return OpenClip(folder=folder, device=device)
    if (folder / "config.json").is_file():
        return TransformersClip(folder=folder, device=device)
    raise FileNotFoundError(
        f"there is neither a config.json nor an open_clip_config.json in {folder}, which cmmd and clip_score need; "
        "fetch openai/clip-vit-large-patch14-336 there with `huggingface-cli download`, or name the folder above it "
        "with --networks"
    )


class TransformersClip:
    """Embeddings of a CLIPModel, of images that the folder's own image processor resizes.

    Args:
        folder: with config.json, weights, tokenizer and preprocessor_config.json.
        device: where it works.
    """

    def __init__(self, *, folder: Path, device: str | torch.device = "cpu") -> None:
        from transformers import AutoConfig, CLIPModel, CLIPProcessor

        kind = AutoConfig.from_pretrained(folder, local_files_only=True).model_type
        if kind != "clip":
            raise ValueError(f"{folder} holds a model of type {kind}; put openai/clip-vit-large-patch14-336 there")
        self.device = torch.device(device)
        model: Any = CLIPModel.from_pretrained(folder, local_files_only=True)
        self.network = model.eval().requires_grad_(False).to(self.device)
        self.processor: Any = CLIPProcessor.from_pretrained(folder, local_files_only=True)
        image = self.processor.image_processor
        self.identity = {
            "network": "clip",
            "weights": weights_digest(self.network),
            "resize": f"{dict(image.size)} filter {int(image.resample)} crop {dict(image.crop_size)}",
        }

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> float32 (B, D) on the CPU, not brought to length 1."""
        pixels = self.processor(images=list(images.cpu()), return_tensors="pt")["pixel_values"]
        return self.network.get_image_features(pixels.to(self.device)).float().cpu()

    @torch.no_grad()
    def embed_captions(self, captions: Sequence[str]) -> Tensor:
        """B captions, cut to what the model takes -> float32 (B, D) on the CPU."""
        length = self.network.config.text_config.max_position_embeddings
        tokens = self.processor(
            text=list(captions), return_tensors="pt", padding=True, truncation=True, max_length=length
        )
        return self.network.get_text_features(**tokens.to(self.device)).float().cpu()


class OpenClip:
    """Embeddings of an open_clip model, with the preprocessing that its folder states.

    Args:
        folder: with open_clip_config.json and weights.
        device: where it works.
    """

    def __init__(self, *, folder: Path, device: str | torch.device = "cpu") -> None:
        import open_clip

        name = f"local-dir:{folder.absolute()}"
        model, _, self.preprocess = open_clip.create_model_and_transforms(name)
        self.device = torch.device(device)
        self.network: Any = model.eval().requires_grad_(False).to(self.device)
        self.tokenizer = open_clip.get_tokenizer(name)
        self.identity = {
            "network": "clip",
            "weights": weights_digest(self.network),
            "resize": " ".join(str(self.preprocess).split()),
        }

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> float32 (B, D) on the CPU, not brought to length 1."""
        from torchvision.transforms.v2.functional import to_pil_image

        pixels = torch.stack([self.preprocess(to_pil_image(image)) for image in images.cpu()])  # pyright: ignore[reportCallIssue, reportArgumentType]
        return self.network.encode_image(pixels.to(self.device)).float().cpu()

    @torch.no_grad()
    def embed_captions(self, captions: Sequence[str]) -> Tensor:
        """B captions, cut to what the model takes -> float32 (B, D) on the CPU."""
        return self.network.encode_text(self.tokenizer(list(captions)).to(self.device)).float().cpu()
