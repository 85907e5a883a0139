"""Prompts in, images out, with a model that micro_diffusion trained; README.md beside it shows how to call it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from PIL import Image


class MicroDiffusionPipeline(DiffusionPipeline):
    """Joins the parts of the model.

    Args:
        backbone: the network.
        autoencoder: turns latents into images.
        text_encoder: turns prompts into what the network is conditioned on.
        diffusion: the objective, the sampler and how the model's own images are generated.
    """

    def __init__(self, backbone: Any, autoencoder: Any, text_encoder: Any, diffusion: Any) -> None:
        super().__init__()
        self.register_modules(
            backbone=backbone, autoencoder=autoencoder, text_encoder=text_encoder, diffusion=diffusion
        )

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        negative_prompt: str | Sequence[str] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        height: int | None = None,
        width: int | None = None,
        num_images_per_prompt: int = 1,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        image: Image.Image | torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        **settings: Any,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Images for prompts.

        Args:
            prompt: one or several; None for the model's own.
            negative_prompt: what guidance goes away from.
            num_inference_steps: steps of the sampler; None for the model's own.
            guidance_scale: 0 unconditional, 1 conditional, above 1 guided; None for the model's own.
            height: in pixels, with `width`; None for those of training.
            width: likewise.
            num_images_per_prompt: images for each prompt.
            seed: image i starts from noise that follows from (seed, i); None for the model's own.
            generator: one from which a seed is drawn, in place of `seed`.
            image: the image that a model with an image conditioner starts from, of Pillow or uint8 (3, H, W).
            output_type: "pil", "np" (B, H, W, 3) in [0, 1], or "pt" (B, 3, H, W) in [0, 1].
            return_dict: whether the images come as `.images` or as a tuple of one.
            **settings: further ones of `generate` in diffusion/code/micro_diffusion/sampling/pipeline.py.

        Raises:
            ValueError: for settings that do not fit the model or one another.
        """
        if output_type not in ("pil", "np", "pt"):
            raise ValueError(f"output_type is {output_type!r}; set it to pil, np or pt")
        if (height is None) != (width is None):
            raise ValueError(f"height is {height} and width {width}; give both, or neither")
        if generator is not None:
            if seed is not None:
                raise ValueError("both a seed and a generator are given; leave one of them out")
            seed = int(torch.randint(2**31, (1,), generator=generator, device=generator.device))
        if negative_prompt is not None:
            settings["negative"] = negative_prompt
        if image is not None:
            settings["image"] = _pixels(image)
        given = [prompt] if isinstance(prompt, str) else prompt
        device, dtype = _place(self.backbone)
        for part in (self.autoencoder, self.text_encoder):
            part.to(device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            pixels = self.diffusion.generate(
                backbone=self.backbone,
                autoencoder=self.autoencoder,
                text_encoder=self.text_encoder,
                captions=given,
                count=num_images_per_prompt,
                seed=seed,
                guidance_scale=guidance_scale,
                steps=num_inference_steps,
                resolution=None if height is None else (height, width),
                **settings,
            )
        images = _as(pixels, output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def save_pretrained(self, save_directory: Any, *_: Any, **__: Any) -> None:
        """Not possible.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            f"this pipeline cannot write itself to {save_directory}; copy its folder, or export the run again with "
            "`micro-diffusion export RUN FOLDER --format diffusers`"
        )


def _place(network: torch.nn.Module) -> tuple[torch.device, torch.dtype]:
    weight = next(network.parameters())
    return weight.device, weight.dtype


def _pixels(image: Image.Image | torch.Tensor) -> torch.Tensor:
    """-> uint8 (3, H, W); tensors are taken as they are."""
    if isinstance(image, torch.Tensor):
        return image
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def _as(pixels: torch.Tensor, output_type: str) -> Any:
    """Images, uint8 (B, 3, H, W), in the type asked for."""
    if output_type == "pt":
        return pixels.float() / 255
    rows = pixels.permute(0, 2, 3, 1).contiguous().numpy()
    return rows.astype("float32") / 255 if output_type == "np" else [Image.fromarray(row) for row in rows]
