"""Folders of prepared data are complete or not there: they are written under another name and renamed at the end."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

RECORD = "metadata.json"
"""What a folder of prepared data holds and how it was made."""


def is_prepared(folder: Path, recipe: Mapping[str, Any]) -> bool:
    """Whether a folder already holds, completely, what `recipe` makes.

    Args:
        folder: where the data would be written.
        recipe: everything that decides what the data will be, as it goes into the record; JSON values.

    Raises:
        FileExistsError: when the folder holds something else, which is not overwritten.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if not (folder / RECORD).is_file():
        raise FileExistsError(f"{folder} exists and was not made by this command; remove it or set another out")
    made = read_record(folder).get("recipe", {})
    wanted = json.loads(json.dumps(recipe))
    if made != wanted:
        different = sorted(key for key in made.keys() | wanted.keys() if made.get(key) != wanted.get(key))
        raise FileExistsError(
            f"{folder} was made with other settings ({', '.join(different)} differ); remove it or set another out"
        )
    log.info("%s is complete already", folder)
    return True


def read_record(folder: Path) -> dict[str, Any]:
    """What a folder's record says.

    Raises:
        FileNotFoundError: when there is none.
    """
    return json.loads((folder / RECORD).read_text(encoding="utf-8"))


@contextmanager
def unfinished(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder` to write to, renamed to it at the end unless an exception ends the writing.

    What an interrupted run left there is removed.
    """
    temporary = folder.with_name(folder.name + ".unfinished")
    if temporary.exists():
        log.info("removing %s, left by an interrupted run", temporary)
        shutil.rmtree(temporary)
    temporary.mkdir(parents=True)
    yield temporary
    if folder.exists():
        folder.rmdir()  # empty, or is_prepared would have said so
    temporary.rename(folder)


def write_record(folder: Path, recipe: Mapping[str, Any], **content: Any) -> None:
    """Write a folder's record: its recipe, and what else is known of the result."""
    text = json.dumps({**content, "recipe": recipe}, indent=2, ensure_ascii=False)
    (folder / RECORD).write_text(text + "\n", encoding="utf-8")
