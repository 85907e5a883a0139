"""Settings that have no effect beside others, or contradict them, are errors before anything is built."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from composer import Time
from omegaconf import DictConfig, OmegaConf

from micro_diffusion.precision import computes_in_bf16

Config = dict[str, Any]
Rule = Callable[[Config], Iterator[str]]

REMOTE_ONLY = ("save_weights_only", "save_filename", "save_latest_filename", "save_ignore_keys", "save_overwrite")
"""What Composer's own saver takes, which writes into remote folders only."""

TIMES = {
    "trainer.max_duration": 1,
    "trainer.eval_interval": 1,
    "trainer.save_interval": 1,
    "callbacks.*.interval": 1,
    "algorithms.*.start": 0,
    "schedule.t_warmup": 0,
}
"""Composer times and the smallest values of them, of which 1 stands for anything above 0."""

MINIMA = {
    "resolution": 1,
    "*_loader.batch_size": 1,
    "optimizer.lr": 0,
    "schedule.alpha_f": 0,
    "callbacks.*.window_size": 1,
    "callbacks.*.batch_log_interval": 1,
    "trainer.device_train_microbatch_size": 1,
    "trainer.dist_timeout": 1,
}
"""Numbers that Composer or a loader takes whatever they are, and the smallest that mean something."""

SEEDS = 2**32


def check_coherence(config: DictConfig) -> None:
    """Check a validated configuration as a whole.

    Raises:
        ValueError: that lists, in one sentence, what has no effect and what contradicts something else.
    """
    content: Config = OmegaConf.to_container(config, resolve=True)  # pyright: ignore[reportAssignmentType]
    problems = [problem for rule in RULES for problem in rule(content)]
    if problems:
        raise ValueError("; ".join(problems))


def _names(config: Config) -> Iterator[str]:
    name = Path(config["exp_name"])
    if name.is_absolute() or ".." in name.parts or not name.parts:
        yield f"exp_name is {config['exp_name']!r}; set it to the name of a folder in output_dir"


def _numbers(config: Config) -> Iterator[str]:
    for key, value, minimum in _matching(config, MINIMA):
        if isinstance(value, int | float) and not minimum <= value < math.inf:
            yield f"{key} is {value}; set it to a finite number of at least {minimum}"


def _seed(config: Config) -> Iterator[str]:
    if not 0 <= config["seed"] < SEEDS:
        yield f"seed is {config['seed']}; set it to a whole number from 0 to {SEEDS - 1}"


def _microbatch(config: Config) -> Iterator[str]:
    if config["trainer"].get("device_train_microbatch_size") == "auto":  # which Composer offers with FSDP1 only
        yield (
            "trainer.device_train_microbatch_size=auto is not supported; set it to a number, or to null for the whole "
            "batch; it is halved where it does not fit, but for several ranks with parallelism=fsdp"
        )


def _kept(config: Config) -> Iterator[str]:
    kept = config["trainer"].get("save_num_checkpoints_to_keep", 1)
    if kept < 1 and kept != -1:
        yield f"trainer.save_num_checkpoints_to_keep is {kept}; set it to 1 or more, or to -1 to keep all"


def _times(config: Config) -> Iterator[str]:
    for key, value, minimum in _matching(config, TIMES):
        try:
            time = Time.from_input(value, "ep").value
            valid = value != "" and (time > 0 or time == minimum)  # Composer takes no text for 0
        except (ValueError, TypeError):
            valid = False
        if not valid:
            yield f"{key} is {value!r}; set it to a time such as 1000ba (steps), 2ep (epochs) or 0.5dur"


def _initial_weights(config: Config) -> Iterator[str]:
    load_path = config["trainer"].get("load_path")
    if config["init_weights"] is not None and config["init_from"] is None:
        yield f"init_weights={config['init_weights']} has no effect without init_from; set both, or neither"
    if config["init_from"] is not None and load_path is not None:
        yield "trainer.load_path would replace the weights of init_from; set one of them"


def _loading(config: Config) -> Iterator[str]:
    trainer = config["trainer"]
    if trainer.get("load_path") is None:
        unused = [key for key in trainer if key.startswith("load_") and key not in ("load_path", "load_weights_only")]
        unused += [] if trainer.get("load_weights_only", True) else ["load_weights_only"]
        if unused:
            yield f"trainer.{unused[0]} has no effect without trainer.load_path; leave it out"
        if config["trust_checkpoint"] and _saves_in_run(config):
            yield "trust_checkpoint has no effect without trainer.load_path; leave it out"
    if trainer.get("load_strict_model_weights", True) is False:
        yield (
            "trainer.load_strict_model_weights=false would keep random weights for every name that the checkpoint "
            "lacks, without a word; set init_from to a run of the same network"
        )


def _checkpoints(config: Config) -> Iterator[str]:
    if config["trust_checkpoint"]:
        return
    path, runs = config["trainer"].get("load_path"), Path(config["output_dir"])
    if path is not None and not _inside(path, runs):  # an earlier stage's checkpoint is as much ours as this run's
        yield (
            f"trainer.load_path={path} is not below {runs}, the folder of your own runs, and reading a checkpoint of "
            "Composer runs the code in it; set trust_checkpoint=true if you trust who made it, or set init_from to a "
            "run folder"
        )
    if not _saves_in_run(config) and config["trainer"].get("autoresume"):
        yield (
            f"trainer.save_folder={config['trainer']['save_folder']} is not in the run's own folder "
            f"{_run_folder(config)}, and resuming would run the code in its checkpoints; set trust_checkpoint=true if "
            "only you write there"
        )


def _saving(config: Config) -> Iterator[str]:
    folder = config["trainer"].get("save_folder")
    if folder is not None and "://" in folder:
        return
    for key in REMOTE_ONLY:
        if key in config["trainer"]:
            yield f"trainer.{key} has no effect on checkpoints in a local folder; leave it out"


def _evaluation(config: Config) -> Iterator[str]:
    if config["eval_loader"] is None and config["trainer"].get("eval_subset_num_batches") is not None:
        yield "trainer.eval_subset_num_batches has no effect without eval_loader; leave it out"


def _precision(config: Config) -> Iterator[str]:
    precision = config["model"].get("cpu_precision", "auto")
    if config["machine"]["device"] == "gpu" and precision != "auto":
        yield f"model.cpu_precision={precision} has no effect on a GPU; set machine.precision there"


def _weights(config: Config) -> Iterator[str]:
    if config["model"].get("weight_dtype", "fp32") == "fp32":
        return
    if config["parallelism"]["fsdp"] is not None:
        yield "model.weight_dtype=bf16 does not go with sharded weights; set model.weight_dtype=fp32 or parallelism=ddp"
    gpu, precision = config["machine"]["device"] == "gpu", config["machine"]["precision"]
    if precision != "amp_bf16" if gpu else not computes_in_bf16("cpu", config["model"].get("cpu_precision", "auto")):
        key = "machine.precision=amp_bf16" if gpu else "model.cpu_precision=bf16"
        yield f"model.weight_dtype=bf16 needs products in bf16; set {key}, or model.weight_dtype=fp32"


def _guidance(config: Config) -> Iterator[str]:
    model, prompts = config["model"], config.get("prompts", {})
    if model.get("caption_drop") == 0 and prompts.get("guidance_scale", 1) not in (0, 1):
        yield (
            f"prompts.guidance_scale={prompts['guidance_scale']} guides away from the null caption, which is never "
            "trained with model.caption_drop=0; set prompts.guidance_scale=1, or drop some captions"
        )


RULES: tuple[Rule, ...] = (
    _names,
    _numbers,
    _seed,
    _microbatch,
    _kept,
    _times,
    _initial_weights,
    _loading,
    _checkpoints,
    _saving,
    _evaluation,
    _precision,
    _weights,
    _guidance,
)


def _matching(config: Config, bounds: Mapping[str, int]) -> Iterator[tuple[str, Any, int]]:
    """Dotted key, value and bound of every setting that a pattern of `bounds` names, but for null."""
    for key, value in _settings(config):
        for pattern, bound in bounds.items():
            if value is not None and fnmatch(key, pattern):
                yield key, value, bound


def _settings(node: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from _settings(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def _run_folder(config: Config) -> Path:
    return Path(config["output_dir"]) / config["exp_name"]


def _saves_in_run(config: Config) -> bool:
    folder = config["trainer"].get("save_folder")
    return folder is None or _inside(folder, _run_folder(config))


def _inside(path: str, folder: Path) -> bool:
    return "://" not in path and Path(path).resolve().is_relative_to(folder.resolve())
