"""Weights that ship with the package, each in a folder with the command that made it and its measured quality."""

from __future__ import annotations

from pathlib import Path

_PREFIX = "bundled:"


def bundled_path(name: str) -> Path:
    """The folder of the bundled weights `name`.

    Raises:
        FileNotFoundError: when nothing of that name ships; the message lists what does.
    """
    root = Path(__file__).parent
    known = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("_"))
    if name not in known:
        raise FileNotFoundError(f"nothing called {name!r} is bundled; choose one of {', '.join(known)}")
    return root / name


def resolve_path(path: str | Path) -> Path:
    """A path of the file system, or the place of `bundled:NAME`."""
    text = str(path)
    return bundled_path(text.removeprefix(_PREFIX)) if text.startswith(_PREFIX) else Path(text).expanduser()
