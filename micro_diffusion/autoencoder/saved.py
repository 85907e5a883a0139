"""Autoencoders of a run folder, of whichever class they are."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from micro_diffusion.autoencoder.gaussian import CONFIG, GaussianAutoencoder, read_config
from micro_diffusion.bounds import PositiveInt
from micro_diffusion.bundled import resolve_path

NETWORKS = {
    "kl": "kl.KLAutoencoder",
    "ldm-vae": "ldm_vae.LdmVAE",
    "diffusers-kl": "diffusers_kl.DiffusersKL",
}
"""The names in the folders, and where in this room the classes are."""


def load_autoencoder(
    path: str | Path,
    *,
    channels: PositiveInt | None = None,
    downsampling: PositiveInt | None = None,
    device: str = "cpu",
) -> GaussianAutoencoder:
    """The autoencoder of a folder that a training or an import has made, in fp32, frozen.

    Args:
        path: the folder, or `bundled:NAME`.
        channels: what the config says C is, checked.
        downsampling: what the config says f is, checked.
        device: where to put it.

    Raises:
        FileNotFoundError: when there is no autoencoder in the folder.
        ValueError: when it is of an unknown class, or of another shape than stated.
    """
    folder = resolve_path(path)
    network, _ = read_config(folder)
    if network not in NETWORKS:
        raise ValueError(
            f"{folder / CONFIG} describes an autoencoder of the kind {network!r}, which is none of "
            f"{', '.join(NETWORKS)}; copy it again, or install the version that made it"
        )
    module, _, name = NETWORKS[network].partition(".")
    kind: type[GaussianAutoencoder] = getattr(import_module(f"micro_diffusion.autoencoder.{module}"), name)
    return kind.load(path, channels=channels, downsampling=downsampling, device=device)
