"""Settings that have no effect beside others, or contradict them, are errors before anything is built."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from micro_diffusion.machine.precision import has_bf16
from micro_diffusion.training.checkpoints.changes import ACCEPTABLE, names_setting
from micro_diffusion.training.config_checks.paths import RULES as PLACES
from micro_diffusion.training.config_checks.paths import Config, Rule

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

STREAMS = ("stdout", "stderr")
"""Where Composer writes lines and bars."""

REFERENCES = {
    "trainer.seed": "seed",
    "trainer.device": "machine.device",
    "trainer.precision": "machine.precision",
    "trainer.parallelism_config": "parallelism",
}
"""Settings that follow from others, which more than the trainer looks at."""


QUANTISED = "micro_diffusion.training.optimizers.adamw_8bit.adamw_8bit"
NO_CAPTIONS = "micro_diffusion.text.none.NoEncoder"

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
    if problems := [problem for rule in RULES for problem in rule(content)]:
        raise ValueError("; ".join(problems))


def _saved(config: Config) -> Iterator[str]:
    if config["trainer"].get("save_folder") is None and config["trainer"].get("autoresume"):
        yield "trainer.save_folder=null keeps nothing to go on with; set it to a folder, or trainer.autoresume=false"


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
    stream = trainer.get("console_stream")
    if "console_log_interval" in trainer and not trainer.get("log_to_console"):
        yield "trainer.console_log_interval has no effect without trainer.log_to_console=true; set both, or neither"
    if not trainer.get("log_to_console") and not trainer.get("progress_bar", True):
        for key in ("console_stream", "log_traces"):
            if trainer.get(key):
                yield (
                    f"trainer.{key}={trainer[key]} has no effect without trainer.log_to_console=true or "
                    "trainer.progress_bar=true; set one of them, or leave it out"
                )
    elif stream is not None and stream not in STREAMS:
        yield f"trainer.console_stream is {stream!r}; set it to {' or '.join(STREAMS)}"


def _ranks(config: Config) -> Iterator[str]:
    strategy = config["trainer"].get("ddp_sync_strategy")
    if strategy is not None and config["parallelism"]["fsdp"] is not None:
        yield (
            f"trainer.ddp_sync_strategy={strategy} has no effect where parallelism.fsdp shards the weights; leave it "
            "out, or set parallelism=ddp"
        )


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
    if config["trainer"].get("precision_config") is not None and config["machine"]["precision"] != "amp_fp8":
        yield (
            f"trainer.precision_config={config['trainer']['precision_config']} has no effect with machine.precision="
            f"{config['machine']['precision']}; leave it out, or set machine.precision=amp_fp8"
        )
    precision = config["model"].get("cpu_precision", "auto")
    if config["machine"]["device"] == "gpu" and precision != "auto":
        yield f"model.cpu_precision={precision} has no effect on a GPU; set machine.precision there"


def _weights(config: Config) -> Iterator[str]:
    if config["model"].get("weight_dtype", "fp32") == "fp32":
        return
    if config["parallelism"]["fsdp"] is not None:
        yield "model.weight_dtype=bf16 does not go with sharded weights; set model.weight_dtype=fp32 or parallelism=ddp"
    gpu, precision = config["machine"]["device"] == "gpu", config["machine"]["precision"]
    on_cpu = config["model"].get("cpu_precision", "auto")
    if precision != "amp_bf16" if gpu else on_cpu == "fp32" or (on_cpu == "auto" and not has_bf16("cpu")):
        key = "machine.precision=amp_bf16" if gpu else "model.cpu_precision=bf16"
        yield f"model.weight_dtype=bf16 needs products in bf16; set {key}, or model.weight_dtype=fp32"


def _moments(config: Config) -> Iterator[str]:
    if config["optimizer"].get("_target_") == QUANTISED and config["parallelism"]["fsdp"] is not None:
        yield "optimizer=adamw_8bit does not go with sharded weights; set optimizer=adamw or parallelism=ddp"


def _adapter(config: Config) -> Iterator[str]:
    if config.get("adapter") is None:
        return
    if config["model"].get("adapter") != config["adapter"]:
        yield f"adapter has no effect on {config['model']['_target_'].rpartition('.')[2]}; leave it out"
    if config["parallelism"]["fsdp"] is not None:
        yield "an adapter does not go with sharded weights; set parallelism=ddp, or adapter=none"


def _guidance(config: Config) -> Iterator[str]:
    model, prompts = config["model"], config.get("prompts", {})
    if model.get("caption_drop") == 0 and prompts.get("guidance_scale", 1) not in (0, 1):
        yield (
            f"prompts.guidance_scale={prompts['guidance_scale']} guides away from the null caption, which is never "
            "trained with model.caption_drop=0; set prompts.guidance_scale=1, or drop some captions"
        )


def _teacher(config: Config) -> Iterator[str]:
    if "teacher" in config["model"] and config["model"]["teacher"] is None:
        yield "model.teacher is null, so there is no run to distil; set init_from to the folder of a finished run"


def _no_captions(config: Config) -> Iterator[str]:
    drop = config["model"].get("caption_drop")
    if drop and (config.get("text_encoder") or {}).get("_target_") == NO_CAPTIONS:
        yield (
            f"model.caption_drop={drop} has no effect with text_encoder=none, which has no captions; set "
            "model.caption_drop=0"
        )


RULES: tuple[Rule, ...] = (
    _saved,
    _references,
    _supplied,
    *PLACES,
    _accepted,
    _console,
    _ranks,
    _copies,
    _evaluation,
    _precision,
    _weights,
    _moments,
    _adapter,
    _guidance,
    _teacher,
    _no_captions,
)


def _at(config: Config, key: str) -> Any:
    for name in key.split("."):
        config = config[name]
    return config
