"""A released autoencoder in the format of diffusers, such as SDXL's, made trainable: its decoder alone, or all of it.

Legend: B images, C latent channels, f downsampling factor, H W image height and width, h = H/f, w = W/f.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from micro_diffusion.autoencoder.autoencoder import check_stated
from micro_diffusion.autoencoder.gaussian import GaussianAutoencoder
from micro_diffusion.autoencoder.pretrained import load_kl
from micro_diffusion.bounds import PositiveInt


class DiffusersKL(GaussianAutoencoder):
    """An AutoencoderKL of diffusers as a network of this package.

    Args:
        architecture: the configuration of the AutoencoderKL.
        trained: "decoder" leaves the encoder, shift and scaling as they are, so that latents of before stay valid;
            "all" trains everything and measures shift and scaling anew.

    Raises:
        ValueError: for another value of `trained`.
    """

    network = "diffusers-kl"

    def __init__(self, *, architecture: Mapping[str, Any], trained: Literal["decoder", "all"] = "all") -> None:
        from diffusers import AutoencoderKL  # takes seconds, and only this class needs it

        if trained not in ("decoder", "all"):
            raise ValueError(f"autoencoder.trained is {trained!r}; set it to decoder or all")
        model: Any = AutoencoderKL.from_config(dict(architecture))
        super().__init__(
            channels=model.config.latent_channels,
            downsampling=2 ** (len(model.config.block_out_channels) - 1),
            config={"architecture": dict(architecture), "trained": trained},
        )
        self.model: Any = model
        self.trained = trained
        self.scaling.fill_(model.config.scaling_factor)
        self.shift.fill_(model.config.shift_factor or 0.0)
        if trained == "decoder":
            for part in (model.encoder, model.quant_conv):
                if part is not None:
                    part.requires_grad_(False)

    @classmethod
    def from_pretrained(
        cls,
        *,
        path: str,
        subfolder: str | None = None,
        revision: str | None = None,
        channels: PositiveInt | None = None,
        downsampling: PositiveInt | None = None,
        trained: Literal["decoder", "all"] = "all",
    ) -> DiffusersKL:
        """A released autoencoder in fp32, to train further.

        Args:
            path: a local folder, or a repository on the Hugging Face hub.
            subfolder: folder within it that holds the autoencoder, such as "vae".
            revision: branch, tag or commit of the repository; None for its main branch.
            channels: what the config says C is, checked.
            downsampling: what the config says f is, checked.
            trained: "decoder" or "all", as in the constructor.

        Raises:
            FileNotFoundError: when the weights are neither here nor within reach.
            ValueError: when they are of another shape than stated.
        """
        released = load_kl(path, subfolder, revision, torch.float32)
        architecture = {key: value for key, value in released.config.items() if not key.startswith("_")}
        autoencoder = cls(architecture=architecture, trained=trained)
        check_stated(path, "channels", channels, autoencoder.channels)
        check_stated(path, "downsampling", downsampling, autoencoder.downsampling)
        autoencoder.model.load_state_dict(released.state_dict())
        return autoencoder

    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> mean and log variance, (B, C, h, w) each."""
        posterior = self.model.encode(images).latent_dist
        return posterior.mean, posterior.logvar

    def reconstruct(self, unscaled: Tensor) -> Tensor:
        """Latents (B, C, h, w) before shift and scaling -> (B, 3, H, W), about [-1, 1], not clamped."""
        return self.model.decode(unscaled).sample

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight of the convolution that makes the image."""
        return self.model.decoder.conv_out.weight

    def measure_scale(self, batches: Iterable[Tensor]) -> None:
        """As for every autoencoder; where the decoder alone is trained, shift and scaling stay."""
        if self.trained == "all":
            super().measure_scale(batches)
