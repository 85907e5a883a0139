"""Values of a type that fits, but which mean nothing: numbers out of bounds, times that are none, empty text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatch
from typing import Any

from composer import Time

from micro_diffusion.training.nodes import settings

Config = dict[str, Any]
Rule = Callable[[Config], Iterator[str]]

TIMES = {
    "trainer.max_duration": 1,
    "trainer.eval_interval": 1,
    "trainer.save_interval": 1,
    "trainer.console_log_interval": 1,
    "callbacks.*.interval": 1,
    "algorithms.*.start": 0,
    "schedule.t_warmup": 0,
}
"""Composer times and the smallest values of them, of which 1 stands for anything above 0."""

MINIMA: dict[str, float] = {
    "objective.P_mean": -math.inf,
    "model.log_variance": -math.inf,
    "objective.levels.mean": -math.inf,
    "trainer.*_subset_num_batches": -1,  # all
    "resolution": 1,
    "*_loader.batch_size": 1,
    "*_loader.predownload": 1,
    "*.window_size": 1,
    "callbacks.*_interval": 1,
    "trainer.device_train_microbatch_size": 1,
    "trainer.dist_timeout": 1,
    "machine.microbatch": 1,
}
"""Settings of this package and of Composer with another smallest value than 0, which is that of all others."""

RULED = (*TIMES, "seed", "trainer.save_num_checkpoints_to_keep")
"""Numbers that have a rule of their own."""

UNBOUNDED = ("sampler.churn_sigma_max",)
"""Settings that may be infinite."""

OURS = ("micro_diffusion.", "composer.")

REQUIRED = ("max_duration", "eval_interval", "save_interval", "device", "precision")
"""What Composer leaves out or chooses by itself where it is null."""

SEEDS = 2**32


def _numbers(config: Config) -> Iterator[str]:
    for key, value in settings(_without_foreign(config)):
        minimum = next((bound for pattern, bound in MINIMA.items() if fnmatch(key, pattern)), 0)
        parts = [] if _is_one_of(key, RULED) else value if isinstance(value, list) else [value]
        numbers = [part for part in parts if isinstance(part, int | float) and not isinstance(part, bool)]
        infinite = key not in UNBOUNDED and any(map(math.isinf, numbers))
        if infinite or any(number < minimum for number in numbers):
            least = f" of at least {minimum}" if minimum > -math.inf else ""
            yield f"{key} is {value}; set it to a finite number{least}"


def _is_one_of(key: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(key, pattern) for pattern in patterns)


def _texts(config: Config) -> Iterator[str]:
    for key, value in settings(_without_foreign(config)):
        if value == "":
            yield f"{key} is empty; set it to a text that is not"


def _without_foreign(node: Any) -> Any:
    """A configuration without the settings of classes whose bounds are not known here."""
    if not isinstance(node, Mapping):
        return node
    ours = str(node.get("_target_", OURS[0])).startswith(OURS)
    return {key: _without_foreign(value) for key, value in node.items() if ours or isinstance(value, Mapping)}


def _tokens(config: Config) -> Iterator[str]:
    if config["trainer"].get("accumulate_train_batch_on_tokens"):
        yield (
            "trainer.accumulate_train_batch_on_tokens weighs microbatches by their tokens, of which images have "
            "none; leave it out"
        )


def _seed(config: Config) -> Iterator[str]:
    if not 0 <= config["seed"] < SEEDS:
        yield f"seed is {config['seed']}; set it to a whole number from 0 to {SEEDS - 1}"


def _microbatch(config: Config) -> Iterator[str]:
    size = config["trainer"].get("device_train_microbatch_size")  # auto, which Composer offers with FSDP1 only
    if size is not None and not isinstance(size, int):
        yield (
            f"trainer.device_train_microbatch_size={size} is not supported; set it to a whole number, or to null for "
            "the whole batch; it is halved where it does not fit, but for several ranks with parallelism=fsdp"
        )


def _kept(config: Config) -> Iterator[str]:
    kept = config["trainer"].get("save_num_checkpoints_to_keep", 1)
    if kept < 1 and kept != -1:
        yield f"trainer.save_num_checkpoints_to_keep is {kept}; set it to 1 or more, or to -1 to keep all"


def _nothing(config: Config) -> Iterator[str]:
    trainer = config["trainer"]
    for key in REQUIRED:
        if trainer.get(key) is None:
            yield f"trainer.{key} is null; set it to a value"
    if trainer.get("save_folder") is None and trainer.get("autoresume"):
        yield "trainer.save_folder=null keeps nothing to go on with; set it to a folder, or trainer.autoresume=false"
    for name in ("train_subset_num_batches", "eval_subset_num_batches"):
        if trainer.get(name) == 0:
            yield f"trainer.{name} is 0; set it to 1 or more, or to -1 for all batches"


def _times(config: Config) -> Iterator[str]:
    for key, value, minimum in _matching(config, TIMES):
        try:
            time = Time.from_input(value, "ep").value
            valid = value != "" and (time > 0 or time == minimum)  # Composer takes no text for 0
            valid &= key != "trainer.max_duration" or not str(value).endswith("dur")
        except (ValueError, TypeError):
            valid = False
        if not valid:
            yield f"{key} is {value!r}; set it to a time such as 1000ba (steps), 2ep (epochs) or 0.5dur"


RULES: tuple[Rule, ...] = (_tokens, _seed, _microbatch, _kept, _nothing, _times)
WRITTEN_RULES: tuple[Rule, ...] = (_numbers, _texts)
"""Of values where they stand, and not also where others refer to them."""


def _matching(config: Config, bounds: Mapping[str, int]) -> Iterator[tuple[str, Any, int]]:
    """Dotted key, value and bound of every setting that a pattern of `bounds` names, but for null."""
    for key, value in settings(config):
        for pattern, bound in bounds.items():
            if value is not None and fnmatch(key, pattern):
                yield key, value, bound
