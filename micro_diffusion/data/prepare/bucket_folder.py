"""A folder of data sets, one for each aspect ratio, with the list of them as its last file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from micro_diffusion.data.format.buckets import BUCKETS, buckets_text
from micro_diffusion.data.format.record import RECORD
from micro_diffusion.data.prepare.storage import LocalStorage, RemoteStorage, Storage, is_remote, scratch_folder
from micro_diffusion.files.outputs import named_folder


class BucketFolder:
    """`check` before the data sets are made, `finish` afterwards.

    Args:
        out: the folder, local or remote.
        names: of all data sets that may come to be in it.
    """

    def __init__(self, out: str | Path, names: Sequence[str]) -> None:
        self.out = str(out).rstrip("/") if is_remote(out) else str(named_folder(Path(out)))
        self.names = names
        self.storage: Storage = RemoteStorage(self.out) if is_remote(out) else LocalStorage(Path(self.out))

    def place(self, name: str) -> str:
        """Where a data set is to be made."""
        return f"{self.out}/{name}"

    def check(self) -> None:
        """Raise FileExistsError where the folder holds a single data set, or other aspect ratios."""
        if self.storage.read(RECORD) is not None:
            raise FileExistsError(f"{self.out} holds a data set of one shape; remove it, or set another out")
        listed = json.loads(self.storage.read(BUCKETS) or "{}")
        if others := sorted(set(listed) - set(self.names)):
            raise FileExistsError(
                f"{self.out} was made with other aspect ratios ({', '.join(others)} among them); remove it, or set "
                "another out"
            )

    def finish(self, samples: Mapping[str, int]) -> None:
        """List the data sets, each with its number of samples; the empty ones, which are not there, are left out."""
        text = buckets_text({name: count for name, count in samples.items() if count})
        if self.storage.read(BUCKETS) == text:
            return
        with scratch_folder(self.storage) as scratch:
            (scratch / BUCKETS).write_text(text, encoding="utf-8")
            self.storage.publish(scratch, [BUCKETS])
