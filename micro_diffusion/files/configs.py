"""Where the configurations are: beside the package in a checkout, inside it in an installed wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def configs_folder() -> Path:
    """The folder of the stages and their groups, wherever the process runs."""
    inside = _PACKAGE / "configs"  # setup.py puts them there
    return inside if inside.is_dir() else _PACKAGE.parent / "configs"
