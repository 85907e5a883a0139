"""What annotations say of each image, looked up by key from any process, where they do not fit into memory."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

Entries = Iterable[tuple[str, Any]]
Lookup = Callable[[str], list[Any]]


class CaptionIndex:
    """A database beside the annotations, made from them once and again when they have changed.

    It is made in one transaction: an interrupted one leaves nothing, and a second process waits for the first.

    Args:
        annotations: the file that the entries come from.
        read: gives the entries of it, pairs of key and JSON value; a key may come several times.
    """

    def __init__(self, annotations: Path, read: Callable[[Path], Entries]) -> None:
        self.annotations = annotations
        self.read = read
        self.path = annotations.with_name(f"{annotations.name}.index")

    @contextmanager
    def open(self) -> Iterator[Lookup]:
        """A function from a key to its values, in the order of the annotations; none for an unknown key.

        Raises:
            OSError: when the database cannot be made.
        """
        self.make()
        with closing(sqlite3.connect(f"{self.path.resolve().as_uri()}?mode=ro", uri=True)) as database:

            def look_up(key: str) -> list[Any]:
                rows = database.execute("SELECT value FROM entries WHERE key = ? ORDER BY rowid", (key,))
                return [json.loads(value) for (value,) in rows]

            yield look_up

    def make(self) -> None:
        """Make the database, unless it is there and fits the annotations."""
        state = self.annotations.stat()
        fingerprint = (state.st_size, state.st_mtime_ns)
        try:
            with closing(sqlite3.connect(self.path, timeout=24 * 3600, isolation_level=None)) as database:
                if _made_from(database) != fingerprint:
                    database.execute("BEGIN EXCLUSIVE")
                    if _made_from(database) != fingerprint:  # another process may have made it in the meantime
                        _fill(database, self.read(self.annotations), fingerprint)
                    database.execute("COMMIT")
        except sqlite3.Error as error:
            raise OSError(
                f"{self.path}, the index of the captions, cannot be made or read ({error}); make room for it and the "
                "folder writable, or remove the file"
            ) from error


def _made_from(database: sqlite3.Connection) -> tuple[int, int] | None:
    """Size and time of the annotations that a database was made from; None for a new one."""
    if not database.execute("SELECT name FROM sqlite_master WHERE name = 'made_from'").fetchone():
        return None
    return database.execute("SELECT size, mtime_ns FROM made_from").fetchone()


def _fill(database: sqlite3.Connection, entries: Entries, fingerprint: tuple[int, int]) -> None:
    database.execute("DROP TABLE IF EXISTS entries")
    database.execute("DROP TABLE IF EXISTS made_from")
    database.execute("CREATE TABLE entries (key TEXT, value TEXT)")
    rows = ((key, json.dumps(value)) for key, value in entries)  # ASCII, for halves of characters
    database.executemany("INSERT INTO entries VALUES (?, ?)", rows)
    database.execute("CREATE INDEX by_key ON entries (key)")
    database.execute("CREATE TABLE made_from (size INTEGER, mtime_ns INTEGER)")
    database.execute("INSERT INTO made_from VALUES (?, ?)", fingerprint)
