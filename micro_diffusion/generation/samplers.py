"""Samplers by the name that they have in the configurations."""

from __future__ import annotations

from pathlib import Path

from micro_diffusion.files.configs import configs_folder
from micro_diffusion.sampling.sampler import Sampler


def find_sampler(name: str, configs: Path | None = None) -> Sampler:
    """The sampler that an option of `configs`/sampler describes; None is the project's own configs.

    Raises:
        FileNotFoundError: when there is none; lists those that exist.
    """
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    configs = configs or configs_folder()
    folder = configs / "sampler"
    if not (folder / f"{name}.yaml").is_file():
        there = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
        remedy = f"choose one of {there}" if there else "give --configs the folder of the stages"
        raise FileNotFoundError(f"there is no sampler {name} in {folder}; {remedy}")
    with initialize_config_dir(str(configs.resolve()), version_base="1.3"):
        return instantiate(compose(overrides=[f"+sampler={name}"]).sampler)
