"""A folder that holds one data set for each of several aspect ratios, and says which."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from micro_diffusion.files.json_text import parse_json

BUCKETS = "buckets.json"
"""The last file of such a folder: the names of the data sets in it, each with its number of samples."""


def read_buckets(folder: Path) -> dict[str, int] | None:
    """What a folder's BUCKETS says, or None where it has none.

    Raises:
        ValueError: when it cannot be read, or names what is not directly in the folder.
    """
    path = folder / BUCKETS
    if not path.is_file():
        return None
    try:
        found = {str(name): int(samples) for name, samples in parse_json(path.read_text(encoding="utf-8")).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read ({error}); make the folder again") from error
    if wrong := [name for name in found if Path(name).name != name or name in ("", "..")]:
        raise ValueError(f"{path} names {wrong[0]!r}, which is no plain name of a folder; make the folder again")
    if not found:
        raise ValueError(f"{path} names no data; make the folder again")
    return found


def buckets_text(samples: Mapping[str, int]) -> str:
    """The content of BUCKETS."""
    return json.dumps(samples, indent=2) + "\n"
