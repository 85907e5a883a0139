"""`micro-diffusion import-tld`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from micro_diffusion.cli.arguments import FILE
from micro_diffusion.files.configs import configs_folder
from micro_diffusion.files.run_folders import CONFIG_FILE

STAGE = "tld_256"
"""What the network is trained and sampled with."""


@click.command("import-tld", short_help="make a run folder of transformer latent diffusion weights")
@click.argument("file", metavar="WEIGHTS", type=FILE)
@click.argument("folder", metavar="FOLDER", type=FILE)
@click.option(
    "--code",
    type=click.Choice(["legacy", "main"]),
    help="The network they were trained in: legacy is v0.1.0, main the one since March 2024.  "
    "[default: legacy for a state dict, main for a training checkpoint]",
)
def import_tld(file: Path, folder: Path, code: Literal["legacy", "main"] | None) -> None:
    """Make the run folder FOLDER of WEIGHTS: state_dict_378000.pth, or a training checkpoint with model_ema.

    Two networks read the same file and compute different things; only images tell which one is right.
    """
    if (folder / CONFIG_FILE).exists():
        raise FileExistsError(f"{folder} is a run folder already; choose a new one, or remove it first")
    from micro_diffusion.checkpoint import parameter_count
    from micro_diffusion.tld_weights import CODES, import_tld_run

    backbone, assumed = import_tld_run(file, folder, published_parts(), code)
    other = "main" if assumed == "legacy" else "legacy"
    chosen = (
        "as asked for" if code else f"which a file of this kind is taken for; --code {other} takes it for the other"
    )
    print(f"{folder}: {parameter_count(backbone):,} parameters, latents of {backbone.input_size} cells")
    print(f"code {assumed}, {CODES[assumed]}, {chosen}; if images are no more than texture, it is the other")


def published_parts() -> dict[str, Any]:
    """The nodes of the stage `tld_256` that a run folder needs beside the backbone."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from micro_diffusion.checkpoint import OPTIONAL_PARTS, PARTS
    from micro_diffusion.training.config_checks.resolvers import register_resolvers

    register_resolvers()
    with initialize_config_dir(str(configs_folder().resolve()), version_base="1.3"):
        config = compose(STAGE)
    parts = [part for part in (*PARTS, *OPTIONAL_PARTS) if part != "backbone" and config.get(part) is not None]
    return {part: OmegaConf.to_container(config[part], resolve=True) for part in parts}
