"""What describes a remote data set, fetched before its shards are, and what can go wrong with either."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from streaming.base.storage.download import DOWNLOADER_MAPPINGS, CloudDownloader
from torch import distributed

from micro_diffusion.data.format.buckets import BUCKETS
from micro_diffusion.data.format.record import RECORD
from micro_diffusion.data.stream.integrity import INDEX, read_index
from micro_diffusion.files.whole_file import concerns_disk, has_no_room


def fetch_description(remote: str, local: Path) -> None:
    """Bring a remote data set's index and metadata to a local folder, on the first rank of each node; others wait.

    Args:
        remote: its URL, such as s3://bucket/name. An endpoint other than Amazon's is taken from S3_ENDPOINT_URL.
        local: the folder that keeps copies of its shards.

    Raises:
        ValueError: when `remote` is no URL, cannot be read, is another data set than the local copies, or lists shards
            that would lie outside of `local`.
        OSError: when the local folder cannot be written.
    """
    _check_address(remote)
    _on_first_rank(lambda: _fetch(remote.rstrip("/"), local, (INDEX, RECORD)))


def fetch_buckets(remote: str, local: Path) -> None:
    """Bring the list of aspect ratios of a remote folder to a local one in the same way; without one, nothing.

    Raises:
        ValueError: when `remote` is no URL, or lists others than the local copies.
        OSError: when the local folder cannot be written.
    """
    _check_address(remote)

    def fetch() -> None:
        with suppress(NotFetched):  # `fetch_description` says what else may be the matter
            _fetch(remote.rstrip("/"), local, (BUCKETS,))

    _on_first_rank(fetch)


def _check_address(remote: str) -> None:
    scheme, separator, _ = remote.partition("://")
    if not separator or scheme not in DOWNLOADER_MAPPINGS:
        raise ValueError(f"remote is {remote}; set it to an address such as s3://bucket/name, or set path alone")


def _on_first_rank(work: Callable[[], None]) -> None:
    """Do something on the first rank of each node, for which the others wait."""
    try:
        if int(os.environ.get("LOCAL_RANK", 0)) == 0:
            work()
    finally:
        if distributed.is_available() and distributed.is_initialized():
            distributed.barrier()


class NotFetched(ValueError):
    """A file that a store does not give, or cannot be asked for."""


def fetch_failure(error: Exception, url: str, local: Path) -> ValueError | OSError:
    """What an error of fetching a file to a local folder means; each kind of store raises its own.

    Args:
        error: of the downloader, or of writing what it gave.
        url: of the file.
        local: the folder that keeps copies.
    """
    reason = " ".join(str(error).split()) or type(error).__name__
    if has_no_room(error):
        return OSError(
            f"there is no room for a copy of {url} in {local} ({reason}); make room there, or bound the copies with "
            "cache_limit, and the same command goes on where it stopped"
        )
    if concerns_disk(error):
        return OSError(f"no copy of {url} can be kept in {local} ({reason}); set path to a folder that can be written")
    return NotFetched(
        f"{url} cannot be fetched ({reason}); check the address, the network and the credentials, and the same command "
        "goes on where it stopped"
    )


def _fetch(remote: str, local: Path, names: Sequence[str]) -> None:
    """Bring files to a local folder, once all of them are known to be of use and no others than those that it has."""
    try:
        local.mkdir(parents=True, exist_ok=True)
        scratch_folder = tempfile.TemporaryDirectory(dir=local)
    except OSError as error:
        raise fetch_failure(error, remote, local) from error
    with scratch_folder as scratch:
        for name in names:
            fetched, kept = Path(scratch, name), local / name
            try:
                CloudDownloader.direct_download(f"{remote}/{name}", str(fetched))
            except Exception as error:
                raise fetch_failure(error, f"{remote}/{name}", local) from error
            if kept.is_file() and kept.read_bytes() != fetched.read_bytes():
                raise ValueError(f"{local} holds another data set than {remote}; set path to a folder of its own")
            if name == INDEX:
                remedy = "name a data set that scripts/precompute.py has made"
                read_index(fetched, origin=f"{remote}/{INDEX}", remedy=remedy)
        for name in names:
            Path(scratch, name).replace(local / name)
