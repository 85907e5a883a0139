"""Experiments as configurations: each changes one thing of its parent, and says why, in the comments at its head.

configs/experiment/NAME.yaml is an option of the group `experiment`; its parent is the first of its defaults list.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from micro_diffusion.training.config_checks.errors import sentence
from micro_diffusion.training.config_checks.resolvers import register_resolvers

STAGE = "lab"
FIELDS = ("Changes", "With it", "Bench", "Hypothesis", "Reference", "Command", "Expect", "Result")
"""What a head says. `Changes`: a dotted key, below which all differences to the parent lie; `With it`: keys that have
to follow. `Bench`: the only one that has what it needs. The base of all changes nothing, and has none of them."""

_FIELD = re.compile(rf"^# ({'|'.join(FIELDS)}):\s+(.*)$")


class Experiment(NamedTuple):
    """name: of the file. parent: another's name, or None. says: what the head says, by `FIELDS`."""

    name: str
    parent: str | None
    says: Mapping[str, str]


def experiment_names(configs: Path) -> list[str]:
    """All experiments, in alphabetical order."""
    return sorted(path.stem for path in (configs / "experiment").glob("*.yaml"))


def read_experiment(path: Path) -> Experiment:
    """What an experiment's file says of itself.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: for a head that lacks a field.
    """
    if not path.is_file():
        known = ", ".join(sorted(other.stem for other in path.parent.glob("*.yaml")))
        raise FileNotFoundError(f"there is no experiment {path.stem}; choose one of {known}")
    says: dict[str, str] = {}
    last = None
    for line in path.read_text(encoding="utf-8").splitlines():
        if found := _FIELD.match(line):
            last = found[1]
            says[last] = found[2].strip()
        elif last and line.startswith("#  "):
            says[last] += " " + line.lstrip("# ").rstrip()
        else:
            last = None
    content = OmegaConf.load(path)
    assert isinstance(content, DictConfig)
    first = content.get("defaults", ["_self_"])[0]
    parent = first if isinstance(first, str) and first != "_self_" else None
    wanted = set(FIELDS) - {"With it", "Bench"} - (set() if parent else {"Changes"})
    if missing := [field for field in FIELDS if field in wanted - says.keys()]:
        raise ValueError(f"the comments at the head of {path} lack {', '.join(missing)}; say it as the others do")
    return Experiment(path.stem, parent, says)


def composed(configs: Path, experiment: str, overrides: Sequence[str] = (), *, bench: str = "shapes") -> DictConfig:
    """The training of an experiment on a bench.

    Raises:
        ValueError: when it does not compose.
    """
    register_resolvers()
    try:
        with initialize_config_dir(str(configs.resolve()), version_base="1.3"):
            return compose(STAGE, overrides=[f"bench={bench}", f"experiment={experiment}", *overrides])
    except HydraException as error:
        raise ValueError(sentence(error)) from error


def resolved(config: DictConfig) -> dict[str, Any]:
    """Every value of a configuration, interpolations followed."""
    content: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # pyright: ignore[reportAssignmentType]
    return content


def digest(config: Mapping[str, Any]) -> str:
    """32 bits of everything that a resolved configuration sets, in hexadecimal."""
    return hashlib.blake2b(json.dumps(config, sort_keys=True).encode(), digest_size=4).hexdigest()


def differences(ours: Any, theirs: Any, path: str = "") -> Iterator[str]:
    """Dotted keys of the values in which two configurations differ, with their interpolations as written."""
    if OmegaConf.is_dict(ours) and OmegaConf.is_dict(theirs):
        for key in sorted({*ours, *theirs}):
            below = f"{path}.{key}" if path else str(key)
            if key not in ours or key not in theirs:
                yield below
            else:
                yield from differences(ours._get_node(key), theirs._get_node(key), below)
    elif OmegaConf.to_yaml(OmegaConf.create({"is": ours})) != OmegaConf.to_yaml(OmegaConf.create({"is": theirs})):
        yield path


def undeclared(experiment: Experiment, config: DictConfig, parent: DictConfig) -> list[str]:
    """Keys in which an experiment's training differs from its parent's without its head saying so."""
    says = experiment.says
    declared = [says["Changes"], *(key.strip() for key in says.get("With it", "").split(",") if key.strip())]
    changed = differences(config, parent)
    return [key for key in changed if not any(key == one or key.startswith(f"{one}.") for one in declared)]
