"""Copies of a run's checkpoints in an object store, from which it goes on where its own folder is gone."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from composer.utils import create_symlink_file, maybe_create_object_store_from_uri, parse_uri

from micro_diffusion.checkpoint import CONFIG_FILE, read_config
from micro_diffusion.files.whole_file import concerns_disk
from micro_diffusion.training.checkpoints.files import (
    DIGEST,
    LATEST,
    UNFINISHED,
    by_step,
    is_whole,
    remove,
    whole_checkpoints,
)
from micro_diffusion.training.checkpoints.run_folder import RunFolder

log = logging.getLogger(__name__)


class RemoteCheckpoints:
    """The remote folder `trainer.save_folder`, into which the first rank copies what it has written to the run folder.

    An object of a store has its name when all of its bytes are there. Of a sharded checkpoint the digest goes last,
    without which it does not count; `latest-rank0.pt.symlink`, which Composer follows, goes after either. Composer's
    stores remove nothing, so all checkpoints stay there until a rule of the store ends them.

    Args:
        url: of the folder, such as s3://bucket/name.
        run: the folder whose `checkpoints` are copied.

    Raises:
        OSError: when the store is not one of Composer's, or lacks its library or credentials.
    """

    def __init__(self, url: str, run: RunFolder) -> None:
        self.url = url.rstrip("/")
        self._run = run
        self._prefix = parse_uri(self.url)[2]
        with _named(f"{self.url} cannot be used"):
            store = maybe_create_object_store_from_uri(self.url)
        assert store is not None  # as for a local folder
        self._store = store
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint copies")
        self._copying: Future[None] | None = None

    def fetch_newest(self) -> None:
        """Bring the newest whole checkpoint to the run folder, unless one that is there is as new.

        Raises:
            ValueError: when the checkpoints are of a run of another configuration, or of an unknown one; when none is
                whole, here or there; or when one has objects that would be files outside of the run folder.
            OSError: when the store does not answer.
        """
        names = self.names()
        if not names:
            return
        self._check_configuration()
        folder = self._run.checkpoints
        assert folder is not None
        there = [path.name for path in whole_checkpoints(folder)]
        for name in reversed(by_step([*there[-1:], *names])):
            if name in there:
                return
            log.info("fetching %s/%s", self.url, name)
            self._fetch(name, folder)
            if is_whole(folder / name):
                return
            log.warning("the remote checkpoint %s/%s is damaged and passed over", self.url, name)
            remove(folder / name)
        raise ValueError(
            f"{self.url} holds no whole checkpoint, only {' and '.join(names)}, nor does {folder}; remove those to "
            "begin the run again, or choose another exp_name"
        )

    def has(self, path: Path) -> bool:
        """Whether there is a copy of a checkpoint."""
        return path.name in self.names()

    def copy(self, path: Path) -> None:
        """Copy a checkpoint and the run's configuration.

        Raises:
            OSError: when that fails; what was copied then does not count.
        """
        shares = sorted(path.iterdir(), key=lambda file: file.name == DIGEST) if path.is_dir() else [path]
        with _named(f"{path} cannot be copied to {self.url}"), tempfile.TemporaryDirectory() as scratch:
            self._store.upload_object(self._key(CONFIG_FILE), self._run.path / CONFIG_FILE)
            for file in shares:
                self._store.upload_object(self._key(str(file.relative_to(path.parent))), file)
            link = Path(scratch, f"{LATEST}.symlink")
            create_symlink_file(self._key(path.name), link)
            self._store.upload_object(self._key(link.name), link)

    def begin_copy(self, path: Path) -> None:
        """The same while training goes on; `failure` waits for it, which comes before `path` is removed."""
        self._copying = self._thread.submit(self.copy, path)

    def failure(self) -> BaseException | None:
        """What went wrong with the copy that was begun last, once it has ended."""
        return None if self._copying is None else self._copying.exception()

    def names(self) -> list[str]:
        """The checkpoints that were copied to the end, oldest first.

        Raises:
            OSError: when the store does not answer.
        """
        with _named(f"{self.url} cannot be listed"):
            objects = self._store.list_objects(self._key(""))
        names = (key.removeprefix(self._key("")) for key in objects)
        return by_step([name.removesuffix(f"/{DIGEST}") for name in names])

    def _check_configuration(self) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            with _named(f"{self.url}/{CONFIG_FILE} cannot be fetched"):
                self._store.download_object(self._key(CONFIG_FILE), Path(scratch, CONFIG_FILE))
            self._run.adopt(read_config(scratch), self.url)

    def _fetch(self, name: str, folder: Path) -> None:
        """Objects become files under another name, which the checkpoint loses when all are there."""
        aside, whole = folder / f"{UNFINISHED}{name}", self._key(name)
        remove(aside)
        with _named(f"{self.url}/{name} cannot be listed"):
            keys = [key for key in self._store.list_objects(whole) if key == whole or key.startswith(f"{whole}/")]
        parts = {key: key.removeprefix(whole).lstrip("/") for key in keys}
        if outside := [key for key, part in parts.items() if ".." in part.split("/")]:
            raise ValueError(
                f"{self.url}/{name} has the object {outside[0]}, which would be outside of {folder}; remove it"
            )
        with _named(f"{self.url}/{name} cannot be fetched"):
            for key, part in parts.items():
                self._store.download_object(key, aside / part)
        aside.replace(folder / name)

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}".lstrip("/")


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Say in one sentence what a store or its network has refused; each kind raises errors of its own.

    Raises:
        OSError: in place of them.
    """
    try:
        yield
    except Exception as error:
        if concerns_disk(error):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OSError(
            f"{what} ({reason}); check trainer.save_folder, the network and the credentials, and give the same command "
            "again, which goes on from the newest checkpoint here or there"
        ) from error
