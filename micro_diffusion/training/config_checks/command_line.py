"""Overrides whose values are texts: whatever their characters are, Hydra's grammar takes them for text.

That grammar (https://hydra.cc/docs/advanced/override_grammar/basic) reads 2024_01_15 as a number, and refuses umlauts,
`~`, brackets and `=` in a value. What the configuration takes as a text is put into quotes here, before Hydra reads it.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from micro_diffusion.training.config_checks.arguments import argument_types, fits
from micro_diffusion.training.config_checks.schema import ROOT

_KEY = re.compile(r"\+{0,2}(?P<key>[\w.]+)=(?P<value>.*)", re.DOTALL)
_INTERPOLATION = "${"


def quote_texts(configs: Path, name: str) -> None:
    """Put quotes around the texts of this program's command line.

    Args:
        configs: the folder of configurations, unless the command line names another.
        name: of the configuration, likewise.
    """
    given, _ = get_args_parser().parse_known_args(sys.argv[1:])
    folder = Path(given.config_path) if given.config_path else configs
    if not folder.is_absolute():
        folder = Path(sys.argv[0]).resolve().parent / folder
    written = given.overrides
    if given.multirun or given.config_dir or all(map(_surely_read, written)):
        return
    quoted = dict(zip(written, quoted_texts(written, folder.resolve(), given.config_name or name), strict=True))
    sys.argv[1:] = [quoted.get(argument, argument) for argument in sys.argv[1:]]


def quoted_texts(overrides: Sequence[str], configs: Path, name: str) -> list[str]:
    """Overrides with quotes around the values that the configuration takes as texts, and Hydra would not.

    Those of unknown keys, and of groups, stay as they are, and so does everything where the configuration itself
    cannot be composed: Hydra says why.
    """
    matched = {override: _KEY.fullmatch(override) for override in overrides}
    doubtful = [
        override
        for override, found in matched.items()
        if found and not _surely_read(override) and not (configs / found["key"].replace(".", "/")).is_dir()
    ]
    try:
        with initialize_config_dir(str(configs), version_base="1.3"):
            config = compose(name, overrides=[override for override in overrides if override not in doubtful])
    except (HydraException, OmegaConfBaseException, ValueError):
        return list(overrides)
    return [_quoted(override, config) if override in doubtful else override for override in overrides]


def quoted(text: str) -> str:
    """A text as Hydra's grammar quotes it; what OmegaConf replaces within, such as ${seed}, it still replaces."""
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", text)
    return "'" + re.sub(r"(\\+)$", r"\1\1", escaped) + "'"


def line_to_type(override: str) -> str:
    """An override that cannot be read, with its value quoted, as it is typed in a shell."""
    key, separator, value = override.partition("=")
    return shlex.quote(f"{key}={quoted(value)}") if separator else "key=value"


def _surely_read(override: str) -> bool:
    """Whether an override has a plain word, or a path of them, which everybody reads alike."""
    found = _KEY.fullmatch(override)
    return found is None or (
        re.fullmatch(r"[A-Za-z./][A-Za-z./_-]*", found["value"]) is not None and not _is_spelt(found)
    )


def _is_spelt(found: re.Match[str]) -> bool:
    """Whether a word stands for something else than itself."""
    return found["value"].lower() in ("true", "false", "null", "nan", "inf", "-inf", "???")


def _quoted(override: str, config: DictConfig) -> str:
    found = _KEY.fullmatch(override)
    assert found is not None
    hint = _hint(config, found["key"])
    if hint is None:
        return override
    value = found["value"]
    start = override[: found.start("value")]
    read = _read(override)
    if read is not None and (_INTERPOLATION in value or read.value() is None or fits(read.value(), hint)):
        return override
    if value.startswith("[") and value.endswith("]") and fits(["text"], hint):
        items = [item.strip() for item in value[1:-1].split(",")]
        return f"{start}[{','.join(item if _read(f'key={item}') else quoted(item) for item in items)}]"
    return f"{start}{quoted(value)}" if fits(value, hint) else override


def _read(override: str) -> Override | None:
    """What Hydra makes of an override; None where it refuses it, or where several values are a sweep."""
    try:
        read = OverridesParser.create().parse_override(override)
    except HydraException:
        return None
    return None if read.is_sweep_override() else read


def _hint(config: DictConfig, key: str) -> Any:
    """What the configuration may set a key to; None where nothing says so."""
    *parents, last = key.split(".")
    node: Any = config
    try:
        for name in parents:
            node = node[name]
        if not isinstance(node, Mapping):
            return None
        types = argument_types(node["_target_"]) if "_target_" in node else {} if parents else ROOT
    except (KeyError, TypeError, ValueError, OmegaConfBaseException):
        return None
    return types.get(last)
