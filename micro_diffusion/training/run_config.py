"""What the commands in the repository do, from Python: compose a configuration by its name, and run it."""

from __future__ import annotations

from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.utils import call

from micro_diffusion.data.prepare.ranks import joined
from micro_diffusion.files.configs import configs_folder
from micro_diffusion.training.build import train
from micro_diffusion.training.config_checks.resolvers import register_resolvers
from micro_diffusion.training.config_checks.schema import validate_command


def run_config(name: str, *overrides: str, configs: str | Path | None = None) -> None:
    """Convert, precompute or train, as the configuration says; what is complete already is left as it is.

    Args:
        name: of a file in the folder of configurations, such as "256_pretrain", "convert" or "precompute".
        overrides: of Hydra, such as "trainer.max_duration=20ba".
        configs: another folder of configurations than the project's.

    Raises:
        FileNotFoundError: when there is no such configuration.
        ValueError: for a configuration that does not fit together.
    """
    folder = Path(configs or configs_folder()).resolve()
    if not (folder / f"{name}.yaml").is_file():
        there = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
        raise FileNotFoundError(f"there is no configuration {name} in {folder}; choose one of {there}")
    register_resolvers()
    with initialize_config_dir(str(folder), version_base="1.3"):
        config = compose(name, overrides=list(overrides))
    if "_target_" not in config:
        train(config)
        return
    validate_command(config)
    with joined():
        call(config, _convert_="all")
