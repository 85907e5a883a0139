"""What may change when a run goes on: how it runs and what it shows, not what is learned."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NamedTuple

from composer import Time, TimeUnit
from composer.optim import ConstantScheduler, ConstantWithWarmupScheduler

from micro_diffusion.training.nodes import accepted, settings

Config = Mapping[str, Any]

FREE = re.compile(
    r"(callbacks|loggers|prompts|sampler|parallelism|eval_loader|output_dir|trust_checkpoint|accept_changes"
    r"|machine\.(device|encoder_device|microbatch|activation_checkpointing)"
    r"|(model\.)?backbone\.activation_checkpointing|train_loader\.(workers|verify|cache_limit)"
    r"|trainer\.(device|device_train_microbatch_size|parallelism_config|compile_config|deterministic_mode"
    r"|eval_interval|eval_subset_num_batches|save_interval|save_num_checkpoints_to_keep|dist_timeout|ddp_sync_strategy"
    r"|progress_bar|log_to_console|console_stream|console_log_interval|log_traces|auto_log_hparams|profiler"
    r"|python_log_level))(\.|$)"
)
"""Keys that change no more of what is learned than the order of sums."""

ACCEPTABLE = re.compile(
    r"(schedule|algorithms\.gradient_clipping|trainer\.(max_duration|precision|scale_schedule_ratio)|machine\.precision"
    r"|model\.(cpu_precision|train_mask_ratio|caption_drop)|train_loader\.path)(\.|$)"
)
"""Keys of what is learned that a run may change where `accept_changes` names them; of the others a checkpoint holds the
old value, as of the optimizer and the order of the data, or does not fit."""

CPU_PRECISION = "model.cpu_precision"
"""Of which "auto" is what the run has settled on."""

DURATION = "trainer.max_duration"
CONSTANT = (ConstantScheduler, ConstantWithWarmupScheduler)


class Change(NamedTuple):
    """A key of two configurations and its values, None where it is not there."""

    key: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.key}={self.after} (was {self.before})"


def changes(before: Config, after: Config) -> list[Change]:
    """Where two resolved configurations differ, but for the place of the run folder within their paths."""
    found = _differences(_within_run(before), _within_run(after))
    return [change for change in found if change.key != CPU_PRECISION or change.after != "auto"]


def refused(before: Config, after: Config) -> list[Change]:
    """The changes of what is learned that `accept_changes` does not name."""
    named = list(after["accept_changes"])
    learned = [change for change in changes(before, after) if not FREE.match(change.key)]
    return [
        change
        for change in learned
        if not any(f"{change.key}.".startswith(f"{name}.") for name in named)
        and (change.key != DURATION or _end_matters(before, after))
    ]


def names_setting(config: Config, key: str) -> bool:
    """Whether a configuration has a key, or the constructor that its last part would be an argument of takes it."""
    *parents, last = key.split(".")
    node: Any = config
    for name in parents:
        node = node.get(name) if isinstance(node, Mapping) else None
    return isinstance(node, Mapping) and (
        last in node or ("_target_" in node and last in (accepted(node["_target_"]) or ()))
    )


def _end_matters(before: Config, after: Config) -> bool:
    """Whether the steps up to the earlier of two ends may depend on which of them it is."""
    ends = [Time.from_input(config["trainer"]["max_duration"], TimeUnit.EPOCH) for config in (before, after)]
    if ends[0].unit != ends[1].unit or ends[0].unit in (TimeUnit.SECOND, TimeUnit.ITERATION):
        return True
    nodes = [after["schedule"], *filter(None, after["algorithms"].values())]
    by_share = _may_look_at_end(after["schedule"]["_target_"]) or any(map(_has_share_of_run, nodes))
    return by_share or _loss_looks_at_end(after["model"])


def _loss_looks_at_end(model: Config) -> bool:
    """Whether the loss of a step depends on the share of the training that is done."""
    losses = filter(None, (model.get("auxiliary") or {}).values())
    return model.get("final_mask_ratio") is not None or any(loss.get("until", 1.0) < 1 for loss in losses)


def _may_look_at_end(target: str) -> bool:
    """Whether a schedule is not one of Composer's, which know the end only by times in shares of the run."""
    return not resolve_name(target).__module__.startswith("composer.")


def _has_share_of_run(node: Config) -> bool:
    """Whether a time of a node is a share of the run, such as `0.1dur`, also where it is left at its default.

    The share after which a constant schedule ends is none: up to the end its value is the same.
    """
    target = node["_target_"]
    values = {name: parameter.default for name, parameter in (accepted(target) or {}).items()} | dict(node)
    if resolve_name(target) in CONSTANT and values["t_max"] == "1dur":
        del values["t_max"]
    listed = [each if isinstance(each, list) else [each] for _, each in settings(values)]
    return any(isinstance(each, str) and each.strip().lower().endswith("dur") for each in chain(*listed))


def _differences(before: Any, after: Any, path: str = "") -> Iterator[Change]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in [*before, *(name for name in after if name not in before)]:
            yield from _differences(before.get(name), after.get(name), f"{path}.{name}" if path else str(name))
    elif before != after:
        yield Change(path, before, after)


def _within_run(config: Config) -> Config:
    """A configuration whose paths within the run folder begin with `.`, wherever that folder is."""
    folder, name = config["output_dir"], config["exp_name"]
    ways = (f"{Path(folder, name)}/", f"{folder}/{name}/")  # the latter with both slashes of a folder that ends in one

    def relative(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: relative(child) for key, child in value.items()}
        run = next((way for way in ways if isinstance(value, str) and value.startswith(way)), None)
        return value if run is None else f"./{value.removeprefix(run)}"

    return relative(config)
