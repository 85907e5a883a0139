"""Where prepared data go: a local folder, or a remote one such as s3://bucket/name.

Files arrive there whole or not at all.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from streaming.base.storage.download import CloudDownloader
from streaming.base.storage.upload import UPLOADERS, CloudUploader

from micro_diffusion.files.whole_file import concerns_disk, has_no_room, sync

_SCRATCH = "writing-"


class Storage(Protocol):
    """Files by their names, which may hold slashes. It can be sent to other processes and machines."""

    def read(self, name: str) -> str | None:
        """The text of a file, or None when there is no such file."""
        ...

    def names(self, folder: str) -> set[str]:
        """Names of the files in a folder, without it; none when there is no such folder."""
        ...

    @property
    def workplace(self) -> Path:
        """The local folder for the scratch folders from which `publish` takes files."""
        ...

    def publish(self, scratch: Path, names: Sequence[str]) -> None:
        """Bring files of a scratch folder here, one after another, replacing those of the same name."""
        ...


@contextmanager
def scratch_folder(storage: Storage) -> Iterator[Path]:
    """A scratch folder that is removed at the end.

    Raises:
        OSError: when the disk is full, in a sentence that says so.
    """
    place = storage.workplace
    with full_disk_named(place):
        place.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=place))
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def full_disk_named(place: Path) -> Iterator[None]:
    """Say in a sentence that the disk is full, if that is what goes wrong."""
    try:
        yield
    except OSError as error:
        if has_no_room(error):
            raise OSError(
                f"there is no room left for {place} ({error.strerror}); make room and give the same command again, "
                "which keeps the parts that are finished"
            ) from error
        raise


def linked(file: Path, name: Path) -> None:
    """Give a file a second name, or copy it where the file system has no such names."""
    try:
        name.hardlink_to(file)
    except OSError:
        shutil.copy2(file, name)


@dataclass(frozen=True)
class LocalStorage:
    """Files below a local folder. They are on the disk, not only in memory, before they get their names."""

    root: Path

    def read(self, name: str) -> str | None:
        """The text of a file, or None when there is no such file."""
        path = self.root / name
        return path.read_text(encoding="utf-8") if path.is_file() else None

    def names(self, folder: str) -> set[str]:
        """Names of the files in a folder, without it; none when there is no such folder."""
        path = self.root / folder
        return {file.name for file in path.iterdir()} if path.is_dir() else set()

    @property
    def workplace(self) -> Path:
        """The root, so that it is on the same disk."""
        return self.root

    def publish(self, scratch: Path, names: Sequence[str]) -> None:
        """Write files of a scratch folder to the disk and rename them, one after another."""
        for name in names:
            source, target = scratch / name, self.root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            sync(source)
            source.replace(target)
            sync(target.parent)

    def remove(self, *names: str) -> None:
        """Remove files, one after another; those that are not there are left."""
        for name in names:
            (self.root / name).unlink(missing_ok=True)

    def clear_scratch(self) -> None:
        """Remove what killed processes were writing."""
        for left in self.root.glob(_SCRATCH + "*"):
            shutil.rmtree(left, ignore_errors=True)  # its process may be ending, and remove it at the same time


@dataclass(frozen=True)
class RemoteStorage:
    """Files below a URL that the streaming library can upload to, such as s3://bucket/name or gs://bucket/name.

    Credentials, and an endpoint other than Amazon's (S3_ENDPOINT_URL), are taken from the environment. Every method
    raises OSError, in a sentence, when the store cannot be reached or refuses.
    """

    root: str

    def read(self, name: str) -> str | None:
        """The text of a file, or None when there is no such file."""
        if not any(found.endswith(f"/{name}") for found in self._list(name)):
            return None
        with tempfile.TemporaryDirectory() as folder, _trouble_named(self.root):
            local = Path(folder) / "file"
            CloudDownloader.direct_download(f"{self.root}/{name}", str(local))
            return local.read_text(encoding="utf-8")

    def names(self, folder: str) -> set[str]:
        """Names of the files in a folder, without it."""
        return {name.rpartition("/")[2] for name in self._list(f"{folder}/")}

    @property
    def workplace(self) -> Path:
        """The system's folder of temporary files."""
        return Path(tempfile.gettempdir())

    def publish(self, scratch: Path, names: Sequence[str]) -> None:
        """Upload files of a scratch folder, one after another."""
        with _trouble_named(self.root):
            uploader = _uploader(self.root, os.getpid())
            uploader.local = str(scratch)
            for name in names:
                uploader.upload_file(name)

    def _list(self, prefix: str) -> list[str]:
        """Whole names of the files whose names here begin so."""
        with _trouble_named(self.root):
            listed = _uploader(self.root, os.getpid()).list_objects(prefix)
        if listed is None:
            raise ValueError(f"the files of {self.root} cannot be listed; set out to a local folder, s3:// or gs://")
        return listed


@contextmanager
def _trouble_named(root: str) -> Iterator[None]:
    """Say in a sentence what a store refuses, each kind of which raises its own errors; those of local files pass."""
    try:
        yield
    except Exception as error:
        if concerns_disk(error):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OSError(
            f"{root} cannot be read or written ({reason}); check the address, the network and the credentials, and "
            "give the same command again, which keeps the parts that are finished"
        ) from error


@lru_cache(maxsize=1)
def _uploader(root: str, process: int) -> CloudUploader:
    """This process's own connection, which takes long to make and must not be shared with a forked process."""
    uploader = CloudUploader.get(root, keep_local=True)
    os.rmdir(uploader.local)  # `publish` names another
    return uploader


def is_remote(out: str | Path) -> bool:
    """Whether `out` is a URL.

    Raises:
        ValueError: when it is one of a kind that the streaming library cannot upload to.
    """
    scheme, separator, _ = str(out).partition("://")
    if separator and scheme not in UPLOADERS:
        known = ", ".join(f"{name}://" for name in sorted(UPLOADERS) if name)
        raise ValueError(f"nothing can be written to {out}; set out to a local folder, or to one of {known}")
    return bool(separator)
