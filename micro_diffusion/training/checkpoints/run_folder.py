"""The folder of a training: which configuration it belongs to, and whether it is complete.

trained_models/<exp_name>/config.yaml     written at the start, fully resolved
                         /changes.jsonl   what has changed in it since, at which step
                         /checkpoints/    to resume from
                         /*.safetensors   written at the end
                         /complete.json   written last
                         /run.lock        who trains in it now
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from micro_diffusion.checkpoint import CONFIG_FILE, read_config, write_config
from micro_diffusion.files.file_lock import NoLocks, locked_file
from micro_diffusion.files.json_text import parse_json
from micro_diffusion.files.whole_file import whole_file
from micro_diffusion.machine.precision import Precision, faster_on_cpu, has_bf16
from micro_diffusion.training.checkpoints.changes import ACCEPTABLE, Change, changes, names_setting, refused
from micro_diffusion.training.checkpoints.files import has_checkpoints

log = logging.getLogger(__name__)

CHANGES_FILE, COMPLETE_FILE, LOCK_FILE = "changes.jsonl", "complete.json", "run.lock"


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
            duration = parse_json(complete.read_text())["max_duration"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{complete} cannot be read ({error!r}); remove it to go on with this run") from error
        return duration == str(self.config["trainer"]["max_duration"])

    @property
    def checkpoints(self) -> Path | None:
        """The folder of this machine for checkpoints, which may be copied elsewhere; None where there are none."""
        folder = self.config["trainer"].get("save_folder")
        return self.path / "checkpoints" if self.remote is not None else folder and Path(folder)

    @property
    def remote(self) -> str | None:
        """The address of the folder to which checkpoints are copied, if there is one."""
        folder = self.config["trainer"].get("save_folder")
        return folder if folder is not None and "://" in folder else None

    def locked(self) -> AbstractContextManager[object]:
        """Keep other trainings out of the folder, whose files each would take for its own leftovers.

        Raises:
            BlockingIOError: when there is one in it already.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            return locked_file(self.path / LOCK_FILE)
        except BlockingIOError as error:
            raise BlockingIOError(
                f"{self.path} is in use by another training ({error}); wait until it ends, or choose another exp_name"
            ) from error
        except NoLocks as error:
            log.warning("%s cannot be locked (%s), so a second training in it is not noticed", self.path, error)
            return nullcontext()

    def check(self) -> None:
        """Compare with the configuration of the run that is in the folder already, if it has got anywhere.

        Raises:
            ValueError: when it differs in what is learned; says where. Also when there are checkpoints without a
                configuration, which another run has left.
        """
        if (earlier := self._earlier()) is not None:
            self._check(earlier, self.path)
        else:
            self._check_no_checkpoints()

    def check_may_begin(self) -> None:
        """Look whether a training was in the folder before, with which a new one would mix its files.

        Raises:
            ValueError: when there was one, and this does not go on with it.
        """
        if not self.config["trainer"].get("autoresume", True) and (self.path / CONFIG_FILE).is_file():
            raise ValueError(
                f"{self.path} holds a training already, with which this one does not go on since trainer.autoresume is "
                "false; choose another exp_name"
            )

    def adopt(self, earlier: dict[str, Any], source: str) -> None:
        """Go on with a run that was begun in a folder of another machine.

        Args:
            earlier: its configuration.
            source: where its checkpoints are, for messages.

        Raises:
            ValueError: when it differs in what is learned; says where.
        """
        self._check(earlier, source)
        if self._earlier() is None:
            write_config(self.path, earlier)

    def _check(self, earlier: dict[str, Any], source: Path | str) -> None:
        if not (wrong := refused(earlier, self.config)):
            return
        differences = ", ".join(map(str, wrong[:5])) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        keys = dict.fromkeys(_nameable(self.config, change.key) for change in wrong)
        accept = f", or accept_changes=[{','.join(keys)}]" if all(map(ACCEPTABLE.match, keys)) else ""
        raise ValueError(
            f"{source} holds a run of another configuration, which differs in {differences}; "
            f"choose another exp_name, or set these back to resume that run{accept}"
        )

    def settle_cpu_precision(self) -> Precision:
        """What `model.cpu_precision` is in this run: "auto" is measured once, and then written into `config.yaml`.

        A run of an earlier version, whose config says "auto", computes in bf16 where the CPU has it.
        """
        model = self.config["model"]
        if self.config["machine"]["device"] != "cpu" or model.get("cpu_precision") != "auto":
            return model.get("cpu_precision", "auto")
        earlier = (self._earlier() or {}).get("model", {}).get("cpu_precision")
        if model.get("weight_dtype") == "bf16" or (earlier == "auto" and has_bf16("cpu")):
            model["cpu_precision"] = "bf16"
        elif earlier is not None:
            model["cpu_precision"] = "fp32" if earlier == "auto" else earlier
        else:
            model["cpu_precision"] = faster_on_cpu()
        return model["cpu_precision"]

    def changes(self) -> list[Change]:
        """Where the configuration differs from that of the run that is in the folder already."""
        earlier = self._earlier()
        return [] if earlier is None else changes(earlier, self.config)

    def _earlier(self) -> dict[str, Any] | None:
        """The configuration of a run that has got anywhere."""
        return read_config(self.path) if (self.path / CONFIG_FILE).is_file() and self._has_results else None

    def _check_no_checkpoints(self) -> None:
        if self._has_checkpoints and not (self.path / CONFIG_FILE).is_file():
            raise ValueError(
                f"{self.checkpoints} holds checkpoints, but {self.path} no {CONFIG_FILE} of the "
                "run that wrote them; set trainer.save_folder to a folder for this run alone, or put that file there "
                "to go on with that run"
            )

    @property
    def _has_results(self) -> bool:
        """Whether there is anything to go on with or to look at; a run that fails at once leaves no such thing."""
        kinds = ("samples/*", "*.safetensors", COMPLETE_FILE)
        return self._has_checkpoints or any(any(self.path.glob(kind)) for kind in kinds)

    @property
    def _has_checkpoints(self) -> bool:
        return self.checkpoints is not None and has_checkpoints(self.checkpoints)

    def begin(self, *, step: int, also: Sequence[Change] = ()) -> None:
        """Write the configuration, and note what has changed.

        Args:
            step: the first one that it holds for.
            also: what has changed beside the configuration.
        """
        changed = [*self.changes(), *also]
        for change in changed:
            log.info("goes on at step %d with %s", step, change)
        self._note([json.dumps({"step": step, **change._asdict()}) + "\n" for change in changed])
        write_config(self.path, self.config)

    def _note(self, lines: list[str]) -> None:
        """Add lines to `changes.jsonl`, all of them or none, unless a run killed before `config.yaml` has done so."""
        path = self.path / CHANGES_FILE
        noted = path.read_text().splitlines(keepends=True) if path.exists() else []
        if not lines or noted[-len(lines) :] == lines:
            return
        with whole_file(path) as unfinished:
            unfinished.write_text("".join([*noted, *lines]))

    def finish(self, **result: Any) -> None:
        """Mark the run as complete, with some numbers about it."""
        content = {"max_duration": str(self.config["trainer"]["max_duration"]), **result}
        with whole_file(self.path / COMPLETE_FILE) as unfinished:
            unfinished.write_text(json.dumps(content, indent=2) + "\n")


def _nameable(config: dict[str, Any], key: str) -> str:
    """The key, or the group above it where the configuration has no such key any more."""
    return key if names_setting(config, key) else key.rpartition(".")[0]
