"""Checkpoints on a local disk, a file or a folder of shares: whole or not there, and checked before they are read."""

from __future__ import annotations

import hashlib
import io
import logging
import re
import shutil
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from composer import State
from composer.utils import dist, save_checkpoint
from torch.distributed.checkpoint import CheckpointException, FileSystemReader

from micro_diffusion.files.torch_archive import check_archive
from micro_diffusion.files.whole_file import sync, whole_file

log = logging.getLogger(__name__)

LATEST = "latest-rank0.pt"
"""The link that names the checkpoint to resume from."""
_STEP = re.compile(r"ep\d+-ba(?P<step>\d+)(-rank0\.pt)?")
UNFINISHED = "unfinished."
"""What the name of a checkpoint begins with until it is whole."""
DAMAGED = ".damaged"
"""What the name of one that was found damaged ends with."""
_METADATA, DIGEST = ".metadata", "metadata.sha256"
"""The list of a sharded checkpoint's tensors, and its digest."""


def write_file(state: State, path: Path) -> None:
    """Write a checkpoint in one file, on the first rank; every rank takes part in gathering what is in it."""
    if dist.get_global_rank():
        save_checkpoint(state, str(path))  # which writes on the first rank only
        return
    with whole_file(path) as unfinished:
        save_checkpoint(state, str(unfinished))


def write_shares(state: State, path: Path) -> None:
    """Write a checkpoint as a folder, into which every rank writes its share of the tensors.

    The folder has its name when all of them are on the disk.
    """
    aside = path.with_name(f"{UNFINISHED}shares")
    try:
        save_checkpoint(state, str(aside / path.name))  # into a folder of that name
    except CheckpointException as error:  # no Exception, and its text a page; it holds what some ranks have met
        raise next(iter(error.failures.values()))[0] from error
    dist.barrier()  # before that name goes, since Composer looks on every rank whether its share is there
    if dist.get_global_rank() == 0:
        remove(path)
        _write_digest(aside / path.name)
        sync(aside / path.name)
        (aside / path.name).replace(path)
        sync(path.parent)
        aside.rmdir()
    dist.barrier()


def whole_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder, oldest first, the last of them read and found whole.

    Damaged ones that are newer are renamed to `*.damaged`, and the log says so. What was not finished goes. Where there
    is no folder, there are none.

    Raises:
        OSError: when one cannot be read, which may be the disk's or the network's fault; it keeps its name.
    """
    if not folder.is_dir():
        return []
    for unfinished in folder.glob(f"{UNFINISHED}*"):
        remove(unfinished)
    paths = [folder / name for name in by_step(path.name for path in folder.iterdir())]
    while paths and not is_whole(paths[-1]):
        damaged = paths.pop()
        aside = damaged.with_name(damaged.name + DAMAGED)
        remove(aside)  # of an earlier time, since a folder does not replace another
        damaged.rename(aside)
        log.warning("the checkpoint %s is damaged and passed over; it is now called %s", damaged, aside.name)
    return paths


def check_none_lost(folder: Path) -> None:
    """Look for what is left of checkpoints in a folder without a whole one.

    Raises:
        ValueError: when there is any, since the run would begin again and replace what it has measured so far.
    """
    left = sorted(path.name for path in folder.glob("*") if path.name == LATEST or path.name.endswith(DAMAGED))
    if left:
        raise ValueError(
            f"{folder} holds no whole checkpoint any more, only {' and '.join(left)}; put a copy of one there to go on "
            "with this run, remove these to begin it again, or choose another exp_name"
        )


def by_step(names: Iterable[str]) -> list[str]:
    """The names that are those of checkpoints, oldest first, each once."""
    steps = {name: int(match["step"]) for name in names if (match := _STEP.fullmatch(name))}
    return sorted(steps, key=steps.__getitem__)


def has_checkpoints(folder: Path) -> bool:
    """Whether there are checkpoints in a folder, whole or not."""
    return folder.is_dir() and any(path.name == LATEST or _STEP.fullmatch(path.name) for path in folder.iterdir())


def is_whole(path: Path) -> bool:
    """Whether a checkpoint has all that was written, by its checksums."""
    try:
        check_checkpoint(path)
    except ValueError:
        return False
    return True


def check_checkpoint(path: Path) -> None:
    """Compare what is in a checkpoint with its checksums.

    Raises:
        OSError: when there is none, or it cannot be read.
        ValueError: when it is cut short, damaged, lacks a share, or is no checkpoint.
    """
    if path.is_dir():
        _check_shares(path)
    else:
        check_archive(path)


def point_to(path: Path | None, folder: Path) -> None:
    """Let the link of a folder name a checkpoint, in one step, or remove it."""
    link = folder / LATEST
    if path is None:
        link.unlink(missing_ok=True)
        return
    new = link.with_name(f"{UNFINISHED}{link.name}")
    new.unlink(missing_ok=True)
    new.symlink_to(path.name)
    new.replace(link)


def remove(path: Path) -> None:
    """Remove a checkpoint, if it is there; a folder loses its name before the first of its files goes."""
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    if not path.name.startswith(UNFINISHED):
        path = path.rename(path.with_name(f"{UNFINISHED}removal.{path.name}"))
    shutil.rmtree(path)


def _write_digest(folder: Path) -> None:
    """Note the digest of `.metadata`, which has no checksum of its own, in the form of `sha256sum`."""
    digest = folder / DIGEST
    digest.write_text(_digest_line(folder))
    sync(digest)


def _digest_line(folder: Path) -> str:
    return f"{hashlib.sha256((folder / _METADATA).read_bytes()).hexdigest()}  {_METADATA}\n"


def _check_shares(folder: Path) -> None:
    """Every tensor of a folder is an archive of its own within the file of a rank; `.metadata` says where."""
    for name in (_METADATA, DIGEST):
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name} is missing; copy the folder again")
    if (folder / DIGEST).read_text(errors="replace") != _digest_line(folder):
        raise ValueError(f"{folder / _METADATA} is damaged; copy the folder again")
    of_file = defaultdict(list)
    for entry in FileSystemReader(folder).read_metadata().storage_data.values():
        of_file[folder / entry.relative_path].append(entry)
    for path, parts in of_file.items():
        if not path.is_file():
            raise ValueError(f"{path} is missing; copy the folder again")
        with path.open("rb") as file:
            for part in parts:
                file.seek(part.offset)
                check_archive(path, io.BytesIO(file.read(part.length)))
