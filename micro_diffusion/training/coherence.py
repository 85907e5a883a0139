"""Settings that have no effect beside others, or contradict them, are errors before anything is built."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from micro_diffusion.checkpoint import CONFIG_FILE
from micro_diffusion.precision import computes_in_bf16
from micro_diffusion.training.bounds import RULES as BOUNDS
from micro_diffusion.training.bounds import WRITTEN_RULES, Config, Rule
from micro_diffusion.training.changes import ACCEPTABLE, names_setting

REMOTE_ONLY = ("save_weights_only", "save_filename", "save_latest_filename", "save_ignore_keys", "save_overwrite")
"""What Composer's own saver takes, which writes into remote folders only."""

PARTS = (
    "model",
    "optimizer",
    "schedule",
    "algorithms",
    "callbacks",
    "loggers",
    "train_loader",
    "eval_loader",
    "trainer",
)
"""Keys at the top without which nothing can be trained."""

REFERENCES = {
    "trainer.seed": "seed",
    "trainer.device": "machine.device",
    "trainer.precision": "machine.precision",
    "trainer.parallelism_config": "parallelism",
}
"""Settings that follow from others, which more than the trainer looks at."""


SUPPLIED = {
    "trainer": (
        *("model", "optimizers", "schedulers", "train_dataloader", "eval_dataloader"),
        *("algorithms", "algorithm_passes", "callbacks", "loggers"),
    ),
    "optimizer": ("groups",),
}
"""Arguments that training itself gives to these nodes, whatever they say."""


def check_coherence(config: DictConfig) -> None:
    """Check a validated configuration as a whole.

    Raises:
        ValueError: that lists, in one sentence, what has no effect and what contradicts something else.
    """
    if missing := [key for key in PARTS if key not in config]:  # as `~optimizer` leaves out the group
        raise ValueError(f"the configuration has no {', '.join(missing)}; choose one of the options in configs")
    content: Config = OmegaConf.to_container(config, resolve=True)  # pyright: ignore[reportAssignmentType]
    written: Config = OmegaConf.to_container(config, resolve=False)  # pyright: ignore[reportAssignmentType]
    problems = [problem for rule in WRITTEN_RULES for problem in rule(written)]
    problems += [problem for rule in RULES for problem in rule(content)]
    if problems:
        raise ValueError("; ".join(problems))


def _names(config: Config) -> Iterator[str]:
    name = Path(config["exp_name"])
    if name.is_absolute() or ".." in name.parts or not name.parts:
        yield f"exp_name is {config['exp_name']!r}; set it to the name of a folder in output_dir"


def _references(config: Config) -> Iterator[str]:
    for key, source in REFERENCES.items():
        value, wanted = config["trainer"].get(key.removeprefix("trainer.")), _at(config, source)
        if value != wanted:
            yield f"{key} is {value}, but {source} is {wanted}; set {source} alone, which {key} follows"


def _supplied(config: Config) -> Iterator[str]:
    for node, names in SUPPLIED.items():
        for name in names:
            if name in config[node]:
                yield f"{node}.{name} would be replaced by what training makes of the configuration; leave it out"


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
    elif "://" in trainer["load_path"] and not trainer.get("load_weights_only", False):
        yield (
            f"trainer.load_path={trainer['load_path']} is remote, where its optimizer and algorithms cannot be "
            "compared with these before they are loaded; copy it to a local folder, or set "
            "trainer.load_weights_only=true"
        )
    elif trainer.get("load_weights_only", False):
        for key in ("load_ignore_keys", "load_exclude_algorithms"):
            if trainer.get(key) is not None:
                yield (
                    f"trainer.{key} has no effect where weights alone are loaded; leave it out, or set "
                    "trainer.load_weights_only=false"
                )
    if trainer.get("load_strict_model_weights", True) is False:
        yield (
            "trainer.load_strict_model_weights=false would keep random weights for every name that the checkpoint "
            "lacks, without a word; set init_from to a run of the same network"
        )


def _checkpoints(config: Config) -> Iterator[str]:
    if config["trust_checkpoint"]:
        return
    path, runs = config["trainer"].get("load_path"), Path(config["output_dir"])
    if path is not None and not _is_of_own_run(path, runs):
        yield (
            f"trainer.load_path={path} is not of a run below {runs}, the folder of your own runs, and reading a "
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
    folder = config["trainer"].get("save_folder")
    if folder is not None and "://" in folder:
        return
    for key in REMOTE_ONLY:
        if key in config["trainer"]:
            yield f"trainer.{key} has no effect on checkpoints in a local folder; leave it out"


def _accepted(config: Config) -> Iterator[str]:
    for key in config["accept_changes"]:
        if ACCEPTABLE.match(key) and not names_setting(config, key):
            yield f"accept_changes names {key}, which is no setting of this configuration; correct it, or take it out"
        if not ACCEPTABLE.match(key):
            yield (
                f"accept_changes names {key}, which does not change within a run, since its checkpoints hold the old "
                "value or do not fit the new one; take it out, and start another run with init_from instead"
            )


def _console(config: Config) -> Iterator[str]:
    trainer = config["trainer"]
    if "console_log_interval" in trainer and not trainer.get("log_to_console"):
        yield "trainer.console_log_interval has no effect without trainer.log_to_console=true; set both, or neither"


def _copies(config: Config) -> Iterator[str]:
    for name in ("train_loader", "eval_loader"):
        node = config[name] or {}
        parts = list((node.get("mixture") or {}).values()) or [node]
        local = [part for part in parts if part.get("remote") is None]
        if node.get("cache_limit") and local:
            yield (
                f"{name}.cache_limit={node['cache_limit']} would remove shards of {local[0].get('path')}, which has no "
                f"remote to fetch them from again; set {name}.cache_limit=null, or the remote"
            )
        if node.get("keep_zip") and len(local) == len(parts):
            yield f"{name}.keep_zip has no effect on data that are not remote; leave it out"


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
    *BOUNDS,
    _references,
    _supplied,
    _initial_weights,
    _loading,
    _checkpoints,
    _saving,
    _accepted,
    _console,
    _copies,
    _evaluation,
    _precision,
    _weights,
    _guidance,
)


def _at(config: Config, key: str) -> Any:
    for name in key.split("."):
        config = config[name]
    return config


def _run_folder(config: Config) -> Path:
    return Path(config["output_dir"]) / config["exp_name"]


def _saves_in_run(config: Config) -> bool:
    folder = config["trainer"].get("save_folder")
    return folder is None or _inside(folder, _run_folder(config))


def _is_of_own_run(path: str, runs: Path) -> bool:
    """Whether a checkpoint is below a run's configuration; an earlier stage is as much ours as this run."""
    file = Path(path).resolve()
    above = [folder for folder in file.parents if folder != runs.resolve() and _inside(str(folder), runs)]
    return _inside(path, runs) and (not file.exists() or any((folder / CONFIG_FILE).is_file() for folder in above))


def _inside(path: str, folder: Path) -> bool:
    return "://" not in path and Path(path).resolve().is_relative_to(folder.resolve())
