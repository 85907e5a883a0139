"""What a run starts from, and the folders that it goes into, here and in a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from micro_diffusion.checkpoint import CONFIG_FILE, choose_weights, read_config
from micro_diffusion.training.checkpoints.remote import RemoteCheckpoints
from micro_diffusion.training.checkpoints.run_folder import RunFolder


def run_folder(config: dict[str, Any]) -> Path:
    """The folder of a configuration's run."""
    return Path(config["output_dir"]) / config["exp_name"]


def check_run_folder(config: dict[str, Any], made: set[Path]) -> str:
    """The run's folder is new, or that of the same configuration, started perhaps from a run `made` before it.

    Raises:
        ValueError: when another run has been there, or one of those that are `made` before it.
    """
    path = run_folder(config)
    if path.resolve() in made:
        raise ValueError(f"{path} is the run folder of an earlier stage; leave exp_name out, so that each has its own")
    first = read_config(path).get("init_from") if (path / CONFIG_FILE).is_file() else None
    if config["init_from"] is None and first is not None and Path(first).resolve() in made:
        config = {**config, "init_from": first}  # stages in a row need not say from which one they start
    run = RunFolder(path, config)
    run.check()
    if run.is_complete:
        return f"{path} is complete already"
    if not (path / CONFIG_FILE).is_file():
        return f"{path} is new"
    changes = ", ".join(map(str, run.changes()))
    return f"{path} holds this run, which goes on{' with ' if changes else ''}{changes}"


def check_remote_folder(config: dict[str, Any]) -> str:
    """The store of a remote `trainer.save_folder` answers with a list of the checkpoints in it.

    Raises:
        OSError: when it is of an unknown kind, does not answer or refuses the credentials.
    """
    url = config["trainer"]["save_folder"]
    there = len(RemoteCheckpoints(url, RunFolder(run_folder(config), config)).names())
    return f"{url} answers, with {there} checkpoints in it"


def check_first_weights(config: dict[str, Any], made: set[Path]) -> str:
    """The weights to start from are there, or one of the runs that are `made` before this one leaves them."""
    first, checkpoint = config["init_from"], config["trainer"].get("load_path")
    source = first or checkpoint
    if source is None:
        return "random"
    if RunFolder(run_folder(config), config).is_complete:
        return "not needed, since the run is complete"
    if "://" in source:
        return f"of {source}, which was not asked for"
    if not made.isdisjoint([Path(source).resolve(), *Path(source).resolve().parents]):
        return f"of {source}, which an earlier stage makes"
    if first is not None:
        return f"{choose_weights(first, config['init_weights'])} weights of {first}"
    if not Path(source).exists():
        raise FileNotFoundError(f"there is no checkpoint {source}; set trainer.load_path to one, or to null")
    return f"of {source}"
