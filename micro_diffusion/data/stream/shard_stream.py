"""The shards of one folder, local or copied from a remote one: each is whole, or an error says what to do."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from streaming import Stream
from streaming.base.format.mds import MDSReader

from micro_diffusion.data.stream.integrity import DamagedShard, check_shard, shard_path
from micro_diffusion.data.stream.remote import fetch_failure
from micro_diffusion.files.whole_file import concerns_disk

log = logging.getLogger(__name__)


class ShardStream(Stream):
    """A part of a streaming data set that trusts no file unseen.

    The library keeps whatever arrived, or was left by a job that was killed. Here a copy of a remote shard is checked
    when it is fetched, and a damaged one is removed and fetched once more.

    Args:
        verify: compare bytes with their hashes; otherwise only their number is looked at.
        options: of the library's stream.
    """

    def __init__(self, *, verify: bool, **options: Any) -> None:
        super().__init__(**options)
        self.verify = verify

    def prepare_shard(self, shard: MDSReader) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Fetch and decompress a shard, as far as that is still to be done; called by one process at a time.

        Returns:
            By how many bytes the shard's files have grown.

        Raises:
            FileNotFoundError: when it has gone from a local folder.
            ValueError: when it cannot be fetched, or is damaged where it comes from.
            OSError: when there is no room for it.
        """
        before = _size(shard)
        try:
            self._prepare(shard)
        except DamagedShard:
            if self.remote is None:
                raise
            self.warn_of_damage(shard)
            shard.evict()
            self._fetch_again(shard)
        return _size(shard) - before

    def origin(self, shard: MDSReader) -> str:
        """Where a shard comes from."""
        return f"{self.remote or self.local}/{(shard.zip_data or shard.raw_data).basename}"

    def warn_of_damage(self, shard: MDSReader) -> None:
        """Say that a copy is replaced."""
        log.warning("the copy %s of %s is damaged and is fetched once more", shard_path(shard), self.origin(shard))

    def _fetch_again(self, shard: MDSReader) -> None:
        try:
            self._prepare(shard)
        except DamagedShard as error:
            shard.evict()
            raise ValueError(
                f"the remote shard {self.origin(shard)} is damaged, since neither of two copies has the bytes that its "
                "index tells; upload that shard again, or make the remote data again"
            ) from error

    def _prepare(self, shard: MDSReader) -> None:
        path = shard_path(shard)
        compressed = path.with_name(shard.zip_data.basename) if shard.zip_data else None
        if self.remote is None and not path.exists() and not (compressed and compressed.exists()):
            raise FileNotFoundError(f"the shard {path} is gone; make the data folder again")
        try:
            super().prepare_shard(shard)
        except Exception as error:  # each compression and each store has its own
            if compressed and compressed.exists() and not concerns_disk(error):
                reason = " ".join(str(error).split()) or type(error).__name__
                raise DamagedShard(
                    f"{compressed} cannot be decompressed ({reason}); make the data folder again"
                ) from error
            raise fetch_failure(error, self.origin(shard), Path(self.local)) from error
        if self.remote is not None:
            check_shard(shard, hashes=self.verify)


def _size(shard: MDSReader) -> int:
    """Bytes of a shard's files that are there, as the library counts them."""
    files = [info for info in (shard.raw_data, shard.zip_data) if info is not None]
    return sum(info.bytes for info in files if Path(shard.dirname, shard.split, info.basename).exists())
