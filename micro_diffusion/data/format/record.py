"""The record of a folder of prepared data: what it holds and how it was made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from micro_diffusion.files.json_text import parse_json
from micro_diffusion.files.old_names import renamed

RECORD = "metadata.json"
"""What a folder of prepared data holds and how it was made; its last file."""


def read_record(folder: Path) -> dict[str, Any]:
    """What a folder's record says.

    Raises:
        FileNotFoundError: when there is none.
    """
    try:
        record = parse_json((folder / RECORD).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / RECORD} cannot be read ({error}); make the folder again") from error
    if not isinstance(record, dict):
        raise ValueError(f"{folder / RECORD} is no record of a folder; make the folder again")
    return renamed(record)


def write_record(folder: Path, recipe: Mapping[str, Any], **content: Any) -> None:
    """Write a folder's record: its recipe, and what else is known of the result."""
    text = json.dumps({**content, "recipe": recipe}, indent=2, ensure_ascii=False)
    (folder / RECORD).write_text(text + "\n", encoding="utf-8")
