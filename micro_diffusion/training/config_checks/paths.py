"""Where a run reads from and writes to: settings without effect, and places that may not be its own, are errors."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Config = dict[str, Any]
Rule = Callable[[Config], Iterator[str]]

SAVING = ("save_weights_only", "save_filename", "save_latest_filename", "save_ignore_keys", "save_overwrite")
"""What Composer's own saver takes, in place of which ours writes checkpoints."""

FETCHING = ("load_progress_bar", "load_object_store")
"""How Composer fetches a remote checkpoint."""


def _initial_weights(config: Config) -> Iterator[str]:
    load_path = config["trainer"].get("load_path")
    if config["init_weights"] is not None and config["init_from"] is None:
        yield f"init_weights={config['init_weights']} has no effect without init_from; set both, or neither"
    if config.get("adapter") is not None and config["init_from"] is None:
        yield "an adapter is trained beside the weights of a finished run; set init_from to its folder, or adapter=none"
    if config["init_from"] is not None and load_path is not None:
        yield "trainer.load_path would replace the weights of init_from; set one of them"


def _loading(config: Config) -> Iterator[str]:
    trainer = config["trainer"]
    if trainer.get("load_path") is not None:
        return
    unused = [key for key in trainer if key.startswith("load_") and key not in ("load_path", "load_weights_only")]
    unused += [] if trainer.get("load_weights_only", True) else ["load_weights_only"]
    if unused:
        yield f"trainer.{unused[0]} has no effect without trainer.load_path; leave it out"
    if config["trust_checkpoint"] and _saves_in_run(config):
        yield "trust_checkpoint has no effect without trainer.load_path; leave it out"


def _loaded(config: Config) -> Iterator[str]:
    trainer = config["trainer"]
    path, weights_only = trainer.get("load_path"), trainer.get("load_weights_only", False)
    if path is None:
        return
    if "://" in path and not weights_only:
        yield (
            f"trainer.load_path={path} is remote, where its optimizer and algorithms cannot be compared with these "
            "before they are loaded; copy it to a local folder, or set trainer.load_weights_only=true"
        )
    if weights_only and trainer.get("load_ignore_keys") is not None:
        yield (
            "trainer.load_ignore_keys is for what is loaded beside the weights; leave it out, or set "
            "trainer.load_weights_only=false"
        )
    for key in FETCHING:
        if "://" not in path and key in trainer:
            yield f"trainer.{key} has no effect where trainer.load_path={path} is local; leave it out"
    if trainer.get("load_strict_model_weights", True) is False:
        yield (
            "trainer.load_strict_model_weights=false would keep random weights for every name that the checkpoint "
            "lacks, without a word; set init_from to a run of the same network"
        )


def _checkpoints(config: Config) -> Iterator[str]:
    if config["trust_checkpoint"]:
        return
    path = config["trainer"].get("load_path")
    if path is not None and not _inside(path, Path(config["output_dir"])):
        yield (
            f"trainer.load_path={path} is not in {config['output_dir']}, the folder of your own runs, and reading a "
            "checkpoint of Composer runs the code in it; set trust_checkpoint=true if you trust who made it, or set "
            "init_from to a run folder"
        )
    if not _saves_in_run(config) and config["trainer"].get("autoresume"):
        yield (
            f"trainer.save_folder={config['trainer']['save_folder']} is not in the run's own folder "
            f"{_run_folder(config)}, and resuming would run the code in its checkpoints; set trust_checkpoint=true if "
            "only you write there"
        )


def _saving(config: Config) -> Iterator[str]:
    for key in SAVING:
        if key in config["trainer"]:
            yield f"trainer.{key} has no effect on checkpoints, which this package writes itself; leave it out"


def _outputs(config: Config) -> Iterator[str]:
    run, name = _run_folder(config), re.compile(rf"(?<!\w){re.escape(config['exp_name'])}(?!\w)")
    for key, place in _places(config):
        if not _inside(place, run) and not name.search(place):
            yield (
                f"{key}={place} is neither in {run} nor named for this run, so that another run may write there too; "
                f"put its exp_name, {config['exp_name']}, into that path"
            )


def _places(config: Config) -> Iterator[tuple[str, str]]:
    """Keys and values of the files and folders that a run writes."""
    if config["trainer"].get("save_folder") is not None:
        yield "trainer.save_folder", config["trainer"]["save_folder"]
    for group, argument in itertools.product(("callbacks", "loggers"), ("folder", "path")):
        for name, node in config[group].items():
            if argument in (node or {}) and node["_target_"].startswith("micro_diffusion."):
                yield f"{group}.{name}.{argument}", node[argument]


RULES: tuple[Rule, ...] = (_initial_weights, _loading, _loaded, _checkpoints, _saving, _outputs)


def _run_folder(config: Config) -> Path:
    return Path(config["output_dir"]) / config["exp_name"]


def _saves_in_run(config: Config) -> bool:
    folder = config["trainer"].get("save_folder")
    return folder is None or _inside(folder, _run_folder(config))


def _inside(path: str, folder: Path) -> bool:
    return "://" not in path and Path(path).resolve().is_relative_to(folder.resolve())
