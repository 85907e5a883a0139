"""`micro-diffusion import-ldm-vae`."""

from __future__ import annotations

from pathlib import Path

import click

from micro_diffusion.cli.arguments import FILE


@click.command("import-ldm-vae", short_help="make an autoencoder folder of the public latent-diffusion VAE")
@click.argument("file", metavar="WEIGHTS", type=FILE)
@click.argument("folder", metavar="FOLDER", type=FILE)
def import_ldm_vae(file: Path, folder: Path) -> None:
    """Make the autoencoder folder FOLDER of vae.pt, which stanipov/pytorch-diffusion publishes."""
    if folder.exists():
        raise FileExistsError(f"{folder} is there already; choose a new one, or remove it first")
    from micro_diffusion.autoencoder.ldm_vae_import import import_ldm_vae as make_folder

    autoencoder = make_folder(file, folder)
    print(f"{folder}: {autoencoder.name}; use it with autoencoder=bundled autoencoder.path={folder}")
