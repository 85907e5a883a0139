"""Prepared data sets are complete or not there, made by one job at a time, and an interrupted job goes on.

A local data set grows in `OUT.unfinished` and is renamed when all its parts are there. A remote one grows where it will
stay and gets its index last, without which nothing reads it.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from micro_diffusion.data.format.record import RECORD, write_record
from micro_diffusion.data.prepare.fingerprint import FILES, Fingerprint
from micro_diffusion.data.prepare.parts import PARTS, PartRecord, record_name, shard_names, take_over, whole_parts
from micro_diffusion.data.prepare.storage import (
    LocalStorage,
    RemoteStorage,
    Storage,
    full_disk_named,
    is_remote,
    scratch_folder,
)
from micro_diffusion.data.stream.integrity import INDEX
from micro_diffusion.files.file_lock import NoLocks, locked_file
from micro_diffusion.files.json_text import parse_json
from micro_diffusion.files.old_names import renamed
from micro_diffusion.files.outputs import named_folder

log = logging.getLogger(__name__)

REJECTS = "rejects.jsonl"
RECIPE = "recipe.json"
SOURCE_FILES = "source_files"
"""In a recipe: digest of the files that the data were made from."""
INPUT = {SOURCE_FILES, "images", "images.images", "images_index"}
"""What tells of other files in a recipe, but of no other settings."""
SHOWN = 4
"""How many settings an error names; of another source, nearly all differ."""


class OutputFolder:
    """A data set that is made in parts: `begin`, write the missing parts in any order and process, `finish`.

    As a context manager it gives up its lock at the end.

    Args:
        out: folder to make, local or remote. A remote one has no lock; two jobs of the same recipe would write the
            same bytes there.
        recipe: everything that decides what the data will be, as it goes into the record; JSON values.
        made_from: the files that the data are made from. Parts that were made from others are made again.
        update: whether a complete local data set that was made from other files is brought up to date, of which only
            the parts that were made from others are made again; or it is an error.
        renew: turns the recipe of a complete data set, which an earlier version may have recorded, into today's terms.
    """

    def __init__(
        self,
        out: str | Path,
        recipe: Mapping[str, Any],
        *,
        made_from: Fingerprint | None = None,
        update: bool = False,
        renew: Callable[[Mapping[str, Any]], Mapping] = dict,
    ) -> None:
        self.out = str(out).rstrip("/") if is_remote(out) else str(named_folder(Path(out)))
        self.recipe = json.loads(json.dumps(recipe))
        self._made_from, self._update, self._renew = made_from, update, renew
        self._lock: TextIO | None = None
        self.finished = RemoteStorage(self.out) if is_remote(out) else LocalStorage(Path(self.out))
        self._unfinished = self.out if is_remote(out) else self.out + ".unfinished"
        self.storage: Storage = self.finished if is_remote(out) else LocalStorage(Path(self._unfinished))

    def __enter__(self) -> OutputFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            os.unlink(self._lock.name)  # while it is still held, so that nobody else's is removed
            self._lock.close()
            self._lock = None

    def begin(self) -> set[int] | None:
        """Take the lock, and see what an interrupted job has left.

        Returns:
            Numbers of the parts that are whole already, or None when the data set is complete.

        Raises:
            FileExistsError: when the folder holds something else, or was begun with another recipe.
            BlockingIOError: when another job is at work there.
        """
        if self._is_complete():  # seen without the lock, which a data set that others own might not allow
            return None
        if isinstance(self.finished, LocalStorage):
            with full_disk_named(self.finished.root.parent):
                self._lock = _locked(self.finished.root)
            if self._is_complete():
                return None
        if isinstance(self.storage, LocalStorage):
            self.storage.clear_scratch()
            ended = self.storage.read(RECORD) is not None  # killed between the last file and the renaming
            if ended and not self._differences(self._recipe_of(self.storage), self._unfinished):
                self._rename()
                return None
        whole = whole_parts(self.storage)
        if whole:
            recent = {} if self._made_from is None else {SOURCE_FILES: self.recipe[SOURCE_FILES]}
            self._differences({**recent, **_content(self.storage, RECIPE)}, self._unfinished)
            whole = self._still_right(whole)
            log.info("%s goes on: %d parts are there already", self.out, len(whole))
        whole |= self._taken_over(whole)
        files = {} if self._made_from is None else {FILES: self._made_from.text()}
        self._publish({RECIPE: json.dumps(self.recipe, indent=2, ensure_ascii=False), **files})
        return whole

    def _still_right(self, whole: set[int]) -> set[int]:
        """Those of the whole parts whose files are what they were."""
        if self._made_from is None:
            return whole
        right = dict(enumerate(self._made_from.parts))
        records = {number: PartRecord.read(self.storage, number).made_from for number in whole}
        kept = {number for number in whole if number in right and records[number] in ("", right[number])}
        if isinstance(self.storage, LocalStorage):
            (self.storage.root / RECORD).unlink(missing_ok=True)
            for number in whole - kept:
                self.storage.remove(record_name(number), *shard_names(self.storage, number))
        if kept != whole:
            log.warning("%s: %d parts are made again, whose files have changed", self.out, len(whole - kept))
        return kept

    def _taken_over(self, whole: set[int]) -> set[int]:
        """The parts, besides the whole ones, that a complete data set to be updated has made from the same files."""
        if self._made_from is None or not isinstance(self.storage, LocalStorage):
            return set()
        assert isinstance(self.finished, LocalStorage)
        if self.finished.read(RECORD) is None:
            return set()
        records = [PartRecord.read(self.finished, number) for number in sorted(whole_parts(self.finished))]
        made = {record.made_from: record for record in records if record.made_from}
        found = {number: made[digest] for number, digest in enumerate(self._made_from.parts) if digest in made}
        taken = found.keys() - whole
        for number in sorted(taken):
            take_over(found[number], number, origin=self.finished, storage=self.storage)
        log.info("%s: %d of %d parts stay as they are", self.out, len(taken), len(self._made_from.parts))
        return set(taken)

    def merge(self, count: int) -> tuple[int, Counter[str], list[Mapping[str, Any]]]:
        """Write the index and the list of rejected images of all parts together.

        Args:
            count: of parts, all of which are whole.

        Returns:
            Number of samples, of rejected images by reason, and the statistics of each part.
        """
        records = [PartRecord.read(self.storage, number) for number in range(count)]
        rejected = [item for record in records for item in record.rejected]
        index = {"version": 2, "shards": [shard for record in records for shard in record.shards]}
        lines = [json.dumps(item._asdict(), ensure_ascii=False) + "\n" for item in rejected]
        self._publish({REJECTS: "".join(lines), INDEX: json.dumps(index, sort_keys=True)})
        counted = Counter(item.reason for item in rejected)
        return sum(record.samples for record in records), counted, [record.statistics for record in records]

    def finish(self, **content: Any) -> None:
        """Write the record, which says that the data set is complete, and give the folder its name."""
        with scratch_folder(self.storage) as scratch:
            write_record(scratch, self.recipe, **content)
            self.storage.publish(scratch, [RECORD])
        self._rename()

    def samples(self) -> int:
        """How many a complete data set holds, as its record says."""
        return int(_content(self.finished, RECORD)["samples"])

    def discard(self) -> str:
        """Remove what has been made, or the same command would take it for finished and not look at its input again.

        Returns:
            What is left to do by hand, to be added to an advice: nothing (""), unless the folder is remote.
        """
        if not isinstance(self.storage, LocalStorage):
            return f", and remove {self.out} before you give the same command again"
        shutil.rmtree(self.storage.root)
        return ""

    def _is_complete(self) -> bool:
        """Whether the folder already holds, completely, what the recipe makes."""
        if self.finished.read(RECORD) is not None:
            if not self._differences(self._recipe_of(self.finished), self.out):
                log.info("%s is complete already", self.out)
                return True
            self._check_update()
            return False
        if isinstance(self.finished, LocalStorage) and self.finished.root.exists():
            root = self.finished.root
            if not root.is_dir() or any(root.iterdir()):
                raise FileExistsError(f"{root} exists and was not made by this command; remove it or set another out")
        return False

    def _check_update(self) -> None:
        """Raise FileExistsError where a complete data set was made from other files and shall not be replaced."""
        assert self._made_from is not None
        changes = self._made_from.changes_since(self.finished.read(FILES))
        if not isinstance(self.finished, LocalStorage):
            raise FileExistsError(
                f"what {self.out} was made from has changed since ({changes}); remove it, or set another out"
            )
        if not self._update:
            raise FileExistsError(
                f"what {self.out} was made from has changed since ({changes}); set update=true to make what has "
                "changed again, or another out"
            )
        log.info("%s is brought up to date: %s", self.out, changes)

    def _differences(self, made: Mapping[str, Any], place: str) -> bool:
        """Whether it was made from other files, with the same settings.

        Raises:
            FileExistsError: where its settings are others, with the values that differ.
        """
        theirs, ours = _leaves(made), _leaves(self.recipe)
        different = [name for name in {**ours, **theirs} if theirs.get(name) != ours.get(name)]
        if self._made_from is not None and SOURCE_FILES in different and set(different) <= INPUT:
            return True
        if different:
            different = [name for name in different if name != SOURCE_FILES]
            shown = [f"{name} {_text(theirs.get(name))}, not {_text(ours.get(name))}" for name in different[:SHOWN]]
            rest = [f"{len(different) - SHOWN} more differ"] if len(different) > SHOWN else []
            raise FileExistsError(
                f"{place} was made with other settings ({'; '.join([*shown, *rest])}); remove it or set another out"
            )
        return False

    def _recipe_of(self, storage: Storage) -> Mapping[str, Any]:
        """Of the record of a complete data set."""
        return self._renew(_content(storage, RECORD).get("recipe", {}))

    def _publish(self, files: Mapping[str, str]) -> None:
        with scratch_folder(self.storage) as scratch:
            for name, text in files.items():
                (scratch / name).write_text(text, encoding="utf-8")
            self.storage.publish(scratch, list(files))

    def _rename(self) -> None:
        """Leave away what only an unfinished data set needs."""
        if not isinstance(self.storage, LocalStorage) or not isinstance(self.finished, LocalStorage):
            return
        self.storage.clear_scratch()  # of a process that outlived its killed parent for a moment
        if self._made_from is None:  # or an update takes the parts that have not changed from there
            shutil.rmtree(self.storage.root / PARTS, ignore_errors=True)
        (self.storage.root / RECIPE).unlink(missing_ok=True)
        replaced = self.finished.root.with_name(self.finished.root.name + ".replaced")
        if self.finished.read(RECORD) is not None:  # made from files that have changed since
            shutil.rmtree(replaced, ignore_errors=True)
            self.finished.root.rename(replaced)
        elif self.finished.root.exists():
            self.finished.root.rmdir()  # empty, or begin would have said so
        self.storage.root.rename(self.finished.root)
        shutil.rmtree(replaced, ignore_errors=True)


def _leaves(recipe: Any, name: str = "") -> dict[str, Any]:
    """The values of a recipe by their dotted names, equal where they mean the same.

    What is not set is as if it were not there, a list of one is its element, and a folder may end in a slash.
    """
    if isinstance(recipe, Mapping):
        deeper = (_leaves(value, f"{name}.{key}" if name else key) for key, value in recipe.items())
        return {leaf: value for leaves in deeper for leaf, value in leaves.items()}
    if isinstance(recipe, list) and len(recipe) == 1:
        return _leaves(recipe[0], name)
    return {name: recipe.rstrip("/") if isinstance(recipe, str) else recipe}


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _content(storage: Storage, name: str) -> Mapping[str, Any]:
    """What a JSON file of a folder says; nothing where it is not there."""
    try:
        content = parse_json(storage.read(name) or "{}")
    except ValueError as error:
        raise ValueError(
            f"{name} of {storage} cannot be read ({error}); remove that folder, or set another out"
        ) from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{name} of {storage} is no record of a folder; remove that folder, or set another out")
    return renamed(content)


def _locked(folder: Path) -> TextIO:
    """The lock on a folder to be made.

    Raises:
        BlockingIOError: when another process holds it.
        OSError: when the file system has no locks.
    """
    path = folder.with_name(folder.name + ".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return locked_file(path)
    except BlockingIOError as error:
        raise BlockingIOError(f"{folder} is being made by {error}; wait for it, or set another out") from error
    except NoLocks as error:
        raise OSError(f"{path} cannot be locked ({error}); set out to a folder on a local disk") from error
