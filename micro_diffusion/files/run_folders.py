"""Run folders by name: in the current folder, in trained_models, or bundled with the package."""

from __future__ import annotations

from pathlib import Path

from micro_diffusion import bundled

CONFIG_FILE = "config.yaml"
"""What makes a folder the folder of a run."""

RUNS = Path("trained_models")
BUNDLED = Path(bundled.__file__).parent


def run_folders(parent: str | Path) -> list[str]:
    """Names of the run folders in `parent`, sorted."""
    return sorted(path.parent.name for path in Path(parent).glob(f"*/{CONFIG_FILE}"))


def find_run(name: str | Path) -> Path:
    """The folder of a run that is given by its path, by its name in trained_models, or by a bundled name.

    Raises:
        FileNotFoundError: when there is none; lists those that exist.
    """
    places = [parent / name for parent in (Path(), RUNS, BUNDLED)]
    found = [place for place in places if (place / CONFIG_FILE).is_file()] or [p for p in places if p.is_dir()]
    if found:
        return found[0]
    there = {parent: run_folders(parent) for parent in (places[0].parent, RUNS)} | {"bundled": run_folders(BUNDLED)}
    known = "; ".join(f"{parent}: {', '.join(names)}" for parent, names in there.items() if names)
    raise FileNotFoundError(f"there is no run folder {name}; there are {known or 'none yet, so train one first'}")
