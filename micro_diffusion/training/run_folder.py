"""The folder of a training: which configuration it belongs to, and whether it is complete.

trained_models/<exp_name>/config.yaml     written at the start, fully resolved
                         /checkpoints/    Composer's, to resume from
                         /*.safetensors   written at the end
                         /complete.json   written last
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from micro_diffusion.checkpoint import CONFIG_FILE, read_config, write_config
from micro_diffusion.whole_file import whole_file

COMPLETE_FILE = "complete.json"
FREE = re.compile(
    r"(?!trainer\.load_)(callbacks|loggers|machine|parallelism|prompts|sampler|trainer|eval_loader|output_dir"
    r"|trust_checkpoint|(model\.)?backbone\.activation_checkpointing|train_loader\.(workers|verify))(\.|$)"
)
"""Keys that may change when a run goes on: they decide how it runs and what it shows, not what is learned, as the
checkpoint does from which it started."""


class RunFolder:
    """Guards `trained_models/<exp_name>` against a second, different run.

    Args:
        path: the folder.
        config: the run's fully resolved configuration.
    """

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.path = path
        self.config = config

    @property
    def is_complete(self) -> bool:
        """Whether the run of this configuration has finished already."""
        complete = self.path / COMPLETE_FILE
        if not complete.is_file():
            return False
        try:
            duration = json.loads(complete.read_text())["max_duration"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{complete} cannot be read ({error!r}); remove it to go on with this run") from error
        return duration == str(self.config["trainer"]["max_duration"])

    def check(self) -> None:
        """Compare with the configuration of the run that is in the folder already, if it has got anywhere.

        Raises:
            ValueError: when it differs in what is learned; says where.
        """
        if not (self.path / CONFIG_FILE).is_file() or not self._has_results:
            return
        earlier = read_config(self.path)
        keys = [key for key in differing_keys(earlier, self.config) if not FREE.match(key)]
        if keys:
            changes = [f"{key}={_at(self.config, key)} (was {_at(earlier, key)})" for key in keys[:5]]
            more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
            raise ValueError(
                f"{self.path} holds a run of another configuration, which differs in {', '.join(changes)}{more}; "
                "choose another exp_name, or set these back to resume that run"
            )

    @property
    def _has_results(self) -> bool:
        """Whether there is anything to go on with or to look at; a run that fails at once leaves no such thing."""
        return any(any(self.path.glob(kind)) for kind in ("checkpoints/*", "samples/*", "*.safetensors", COMPLETE_FILE))

    def begin(self) -> None:
        """Write the configuration."""
        write_config(self.path, self.config)

    def finish(self, **result: Any) -> None:
        """Mark the run as complete, with some numbers about it."""
        content = {"max_duration": str(self.config["trainer"]["max_duration"]), **result}
        with whole_file(self.path / COMPLETE_FILE) as unfinished:
            unfinished.write_text(json.dumps(content, indent=2) + "\n")


def differing_keys(a: Any, b: Any, path: str = "") -> list[str]:
    """Dotted keys at which two nested configurations differ, or which only one of them has."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        names = [*a, *(name for name in b if name not in a)]
        return [
            key
            for name in names
            for key in differing_keys(a.get(name), b.get(name), f"{path}.{name}" if path else str(name))
        ]
    return [] if a == b else [path]


def _at(config: Any, key: str) -> Any:
    for name in key.split("."):
        config = config.get(name) if isinstance(config, Mapping) else None
    return config
