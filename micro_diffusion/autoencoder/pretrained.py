"""Released autoencoders in the format of diffusers, such as those of Stable Diffusion.

Legend: B images, C latent channels, f downsampling factor, H W image height and width, h = H/f, w = W/f.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from micro_diffusion.autoencoder.autoencoder import Generators, check_divisible, check_stated
from micro_diffusion.bounds import PositiveFloat, PositiveInt
from micro_diffusion.files.provenance import weights_digest


class PretrainedAutoencoder:
    """A frozen diffusers AutoencoderKL, fetched when the object is made, never before.

    Latents are (z - shift_factor) * scaling_factor. Inputs are moved to the weights' device and dtype; results
    are fp32.

    Args:
        path: repository on the Hugging Face hub, or a local folder.
        subfolder: folder within it that holds the autoencoder, such as "vae".
        revision: branch, tag or commit of the repository; None for its main branch.
        channels: what the config says C is, checked.
        downsampling: what the config says f is, checked.
        scaling_factor: replaces the one in the weights' own config.
        shift_factor: replaces the one in the weights' own config, where 0 is meant when none is given.
        dtype: of the weights: "float32", "bfloat16" or "float16".

    Raises:
        FileNotFoundError: when the weights are neither here nor within reach.
        ValueError: when they are of another shape than stated, or overflow in float16.
    """

    def __init__(
        self,
        *,
        path: str,
        subfolder: str | None = None,
        revision: str | None = None,
        channels: PositiveInt | None = None,
        downsampling: PositiveInt | None = None,
        scaling_factor: PositiveFloat | None = None,
        shift_factor: float | None = None,
        dtype: str = "float32",
    ) -> None:
        self.name = path if subfolder is None else f"{path}/{subfolder}"
        self.model = load_kl(path, subfolder, revision, getattr(torch, dtype))
        config = self.model.config
        if dtype == "float16" and config.force_upcast:
            raise ValueError(
                f"the autoencoder {self.name} overflows in float16 by its own config; set autoencoder.dtype to float32 "
                "or bfloat16"
            )
        self.channels = config.latent_channels
        self.downsampling = 2 ** (len(config.block_out_channels) - 1)
        check_stated(self.name, "channels", channels, self.channels)
        check_stated(self.name, "downsampling", downsampling, self.downsampling)
        self.scaling_factor = config.scaling_factor if scaling_factor is None else scaling_factor
        self.shift_factor = (config.shift_factor or 0.0) if shift_factor is None else shift_factor
        self.provenance = {
            "path": path,
            "subfolder": subfolder,
            "revision": revision,
            "digest": weights_digest(self.model),
            "dtype": dtype,
            "scaling_factor": self.scaling_factor,
            "shift_factor": self.shift_factor,
        }

    @staticmethod
    def repository(*, path: str, **_: object) -> str:
        """Where its weights come from: a repository of the hub, or a folder."""
        return path

    @torch.no_grad()
    def encode(self, images: Tensor, *, generator: Generators = None, sample: bool = True) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, C, h, w), a draw from the posterior or its mean, shifted and scaled."""
        check_divisible(images, self.downsampling)
        posterior = self.model.encode(images.to(self.model.device, self.model.dtype)).latent_dist
        latents = posterior.sample(generator) if sample else posterior.mode()
        return (latents.float() - self.shift_factor) * self.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) as made by `encode` -> (B, 3, H, W), clamped to [-1, 1]."""
        return self.decode_with_gradient(latents).clamp(-1, 1)

    def decode_with_gradient(self, latents: Tensor) -> Tensor:
        """The same, not clamped, for losses on images; its gradients reach the latents."""
        unscaled = latents.to(self.model.device, torch.float32) / self.scaling_factor + self.shift_factor
        return self.model.decode(unscaled.to(self.model.dtype)).sample.float()

    def to(self, device: torch.device) -> None:
        """Move the weights."""
        self.model.to(device)


def load_kl(path: str, subfolder: str | None, revision: str | None, dtype: torch.dtype) -> Any:
    """The frozen network from a local folder, or from the hub when there is no such folder."""
    from diffusers import AutoencoderKL  # takes seconds, and only this class needs it

    local = Path(path).expanduser()
    place = {"revision": revision} | ({} if subfolder is None else {"subfolder": subfolder})
    try:
        model = AutoencoderKL.from_pretrained(str(local) if local.is_dir() else path, torch_dtype=dtype, **place)
    except (OSError, ValueError) as error:
        where = path if subfolder is None else f"{path}, subfolder {subfolder}"
        raise FileNotFoundError(
            f"there is no autoencoder to load from {where} ({str(error).strip().splitlines()[0]}); connect to the "
            f"network once, or run `huggingface-cli download` elsewhere and set autoencoder.path to the folder"
        ) from error
    return model.eval().requires_grad_(False)
