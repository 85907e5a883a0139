"""What describes a remote data set, fetched before its shards are."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from streaming.base.storage.download import DOWNLOADER_MAPPINGS, CloudDownloader
from torch import distributed

from micro_diffusion.data.integrity import INDEX
from micro_diffusion.data.output_folder import RECORD


def fetch_description(remote: str, local: Path) -> None:
    """Bring a remote data set's index and metadata to a local folder, on the first rank of each node; others wait.

    Args:
        remote: its URL, such as s3://bucket/name. An endpoint other than Amazon's is taken from S3_ENDPOINT_URL.
        local: the folder that keeps copies of its shards.

    Raises:
        ValueError: when `remote` is no URL, cannot be read, or is another data set than the local copies.
    """
    scheme, separator, _ = remote.partition("://")
    if not separator or scheme not in DOWNLOADER_MAPPINGS:
        raise ValueError(f"remote is {remote}; set it to an address such as s3://bucket/name, or set path alone")
    try:
        if int(os.environ.get("LOCAL_RANK", 0)) == 0:
            _fetch(remote.rstrip("/"), local)
    finally:
        if distributed.is_available() and distributed.is_initialized():
            distributed.barrier()


def _fetch(remote: str, local: Path) -> None:
    local.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=local) as scratch:
        for name in (INDEX, RECORD):
            fetched, kept = Path(scratch, name), local / name
            try:
                CloudDownloader.direct_download(f"{remote}/{name}", str(fetched))
            except Exception as error:  # each store's library has its own
                raise ValueError(
                    f"{remote}/{name} cannot be fetched ({' '.join(str(error).split())}); check the address, the "
                    "network and the credentials"
                ) from error
            if kept.is_file() and kept.read_bytes() != fetched.read_bytes():
                raise ValueError(f"{local} holds another data set than {remote}; set path to a folder of its own")
        for name in (INDEX, RECORD):
            Path(scratch, name).replace(local / name)
