"""Files within tar and zip archives, read in place: whatever their names say, nothing is unpacked to the disk."""

from __future__ import annotations

import gzip
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, NamedTuple, cast

from micro_diffusion.data.image.file_names import IMAGES, is_leftover, suffix
from micro_diffusion.data.sources.source import Rejected

LARGEST_FILE = 256 * 2**20
"""Bytes; a larger file is no image, and a few of them would fill the memory."""

_NAMES = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
_LONGEST_NAME = 2**20
_ENCRYPTED = 0x1  # of a zip entry's flags
_DAMAGE = (OSError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile, UnicodeError)
_SAMPLED = 256


class File(NamedTuple):
    """A file within an archive. end: bytes of the archive up to its end, before compression."""

    name: str
    content: bytes
    end: int


class _StrictHeader(tarfile.TarInfo):
    """Tells the end of an archive from a damaged or missing header, which `tarfile` takes for the end.

    Long names are files of their own, which `tarfile` reads whatever their size.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> tarfile.TarInfo:
        header = super().frombuf(buf, encoding, errors)
        if header.type in _NAMES and header.size > _LONGEST_NAME:
            raise tarfile.ReadError(f"a name of {header.size} bytes")
        return header

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> tarfile.TarInfo:
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # pyright: ignore[reportAttributeAccessIssue]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} at byte {tarfile_.offset}") from error


def read_tar(path: Path, *, suffixes: Collection[str] | None = None) -> Iterator[File | Rejected]:
    """The files of a tar archive, gzipped or not, in its order; those of other suffixes are skipped.

    Raises:
        ValueError: when the archive is damaged or cut short.
    """
    for member, tar in _members(path):
        if suffixes is not None and suffix(member.name) not in suffixes:
            continue
        if not member.isreg() or member.size > LARGEST_FILE:
            yield Rejected(member.name, _unfit(member.isreg()))
            continue
        with _damage_named(path):
            content = _content(tar, member).read()
        yield File(member.name, content, tar.offset)


def read_lines(path: Path, *, suffix_of_member: str) -> Iterator[bytes]:
    """The lines of a text file, or of the files with that suffix within a tar archive, gzipped or not.

    Raises:
        ValueError: when the archive is damaged or cut short.
    """
    if suffix(path.name) == suffix_of_member:
        with path.open("rb") as file:
            yield from file
        return
    for member, tar in _members(path):
        if member.isreg() and suffix(member.name) == suffix_of_member:
            with _damage_named(path):
                yield from _content(tar, member)


def read_zip(path: Path, *, suffixes: Collection[str] | None = None) -> Iterator[File | Rejected]:
    """The files of a zip archive, in the order of its directory; those of other suffixes are skipped.

    A damaged file is rejected by itself.

    Raises:
        ValueError: when the directory of the archive is damaged.
    """
    with _damage_named(path), zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.is_dir() or is_leftover(member.filename):
                continue
            if suffixes is not None and suffix(member.filename) not in suffixes:
                continue
            if member.file_size > LARGEST_FILE or member.flag_bits & _ENCRYPTED:
                yield Rejected(member.filename, _unfit(not member.flag_bits & _ENCRYPTED))
                continue
            try:
                content = archive.read(member)
            except (
                zipfile.BadZipFile,
                zlib.error,
                EOFError,
                NotImplementedError,
            ):  # the last: compressed in a rare way
                yield Rejected(member.filename, "damaged in the archive")
                continue
            yield File(member.filename, content, 0)


def estimate_images(paths: Sequence[Path]) -> int:
    """About how many images tar archives hold, from their sizes and the first images of the first one with any."""
    sampled: list[File] = []
    for path in paths:
        images = (file for file in read_tar(path) if isinstance(file, File) and suffix(file.name) in IMAGES)
        if sampled := list(islice(images, _SAMPLED)):
            break
    size = sum(path.stat().st_size for path in paths)
    return max(len(sampled), round(len(sampled) * size / sampled[-1].end)) if sampled else 0


def _members(path: Path) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    """Everything in a tar archive that is no folder."""
    with _damage_named(path), _open(path) as file:
        with tarfile.open(fileobj=file, mode="r:", errors="replace", tarinfo=_StrictHeader) as tar:
            while (member := tar.next()) is not None:
                vars(tar)["members"].clear()  # it keeps them all, which is much for ten million captions
                if not member.isdir() and not is_leftover(member.name):
                    yield member, tar
        while block := file.read(2**20):
            if block.strip(tarfile.NUL):
                raise tarfile.ReadError("something follows its end")


def _open(path: Path) -> IO[bytes]:
    """An archive's bytes, decompressed."""
    with path.open("rb") as file:
        gzipped = file.read(2) == b"\x1f\x8b"
    return cast("IO[bytes]", gzip.open(path)) if gzipped else path.open("rb")


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = tar.extractfile(member)
    assert content is not None  # it is a regular file
    return content


def _unfit(too_large: bool) -> str:
    return f"file above {LARGEST_FILE // 2**20} MiB" if too_large else "no plain file"


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Errors of the reading as one sentence that names the archive."""
    try:
        yield
    except _DAMAGE as error:
        raise ValueError(f"{path} cannot be read to its end ({error}); get this file again, or remove it") from error
