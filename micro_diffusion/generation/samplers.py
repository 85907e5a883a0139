"""Samplers and their noise levels by the names that they have in the configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from micro_diffusion.checkpoint import Run
from micro_diffusion.files.configs import configs_folder
from micro_diffusion.sampling.noise_levels import Levels
from micro_diffusion.sampling.sampler import Sampler


def option_names(group: str, configs: Path | None = None) -> list[str]:
    """The names in a group of the configurations, "sampler" or "levels"; None is the project's own configs."""
    return sorted(path.stem for path in ((configs or configs_folder()) / group).glob("*.yaml"))


def find_sampler(name: str, configs: Path | None = None) -> Sampler:
    """The sampler that an option of `configs`/sampler describes; None is the project's own configs.

    Raises:
        FileNotFoundError: when there is none; lists those that exist.
    """
    from hydra.utils import instantiate

    return instantiate(_described("sampler", name, configs).sampler)


def find_levels(name: str, run: Run, configs: Path | None = None) -> Levels:
    """The noise levels that an option of `configs`/levels describes, with the schedule of the run's objective.

    Raises:
        FileNotFoundError: when there are none; lists those that exist.
        ValueError: when they need a schedule that the run's objective does not have.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate
    from omegaconf import OmegaConf
    from omegaconf.errors import InterpolationResolutionError

    described = OmegaConf.merge(
        OmegaConf.to_container(_described("levels", name, configs)), {"objective": run.config["objective"]}
    )
    try:
        return instantiate(described.sampler.levels)
    except (InstantiationException, InterpolationResolutionError) as error:
        raise ValueError(
            f"the noise levels {name} do not fit the objective of {run.folder} ({' '.join(str(error).split())}); "
            "choose others, such as karras"
        ) from error


def _described(group: str, name: str, configs: Path | None) -> Any:
    """The config with one option of one group alone."""
    from hydra import compose, initialize_config_dir

    configs = configs or configs_folder()
    folder = configs / group
    if not (folder / f"{name}.yaml").is_file():
        there = ", ".join(option_names(group, configs))
        remedy = f"choose one of {there}" if there else "give --configs the folder of the stages"
        what = f"is no {group}" if group == "sampler" else f"are no {group}"
        raise FileNotFoundError(f"there {what} {name} in {folder}; {remedy}")
    with initialize_config_dir(str(configs.resolve()), version_base="1.3"):
        return compose(overrides=[f"+{group}={name}"])
