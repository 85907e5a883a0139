"""Damage to files, which follows from their names."""

import io
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from micro_diffusion.training.config_checks.errors import one_sentence_errors

WAYS = ["empty", "zeros", "truncated", "flipped", "other", "huge"]
TEXT = (".json", ".jsonl", ".csv", ".yaml")


def png(side: int = 24) -> bytes:
    generator = random.Random(0)
    buffer = io.BytesIO()
    Image.frombytes("RGB", (side, side), generator.randbytes(3 * side * side)).save(buffer, "png")
    return buffer.getvalue()


def damaged(path: Path, way: str) -> bytes:
    """The content of a file after damage that follows from the file's name."""
    content, generator = path.read_bytes(), random.Random(f"{path.name} {way}")
    if way == "empty":
        return b""
    if way == "zeros":
        return bytes(len(content))
    if way == "truncated":
        return content[: generator.randrange(1, len(content) - 1)]
    if way == "flipped":
        return flipped(content, generator, bits=(7,) if path.suffix in TEXT else range(8))
    if way == "other":
        return b"%PDF-1.7 something else" if path.suffix == ".png" else png()
    return HUGE[path.suffix](content)


def flipped(content: bytes, generator: random.Random, bits) -> bytes:
    """Three bits of the second half turned over; in text the highest, so that no other valid text comes of it."""
    changed = bytearray(content)
    for place in generator.sample(range(len(content) // 2, max(len(content) - 64, len(content) // 2 + 8)), 3):
        changed[place] ^= 1 << generator.choice(list(bits))
    return bytes(changed)


def huge_png(content: bytes) -> bytes:
    """An image of 60,000 by 60,000 pixels, says its header."""
    header = b"IHDR" + struct.pack(">II", 60_000, 60_000) + content[24:29]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


def huge_archive(content: bytes) -> bytes:
    """A zip bomb: sixty-four megabytes of zeros in some kilobytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2**26))
    return buffer.getvalue()


def huge_json(content: bytes) -> bytes:
    """Numbers beyond all measure, or, where there are none that count, brackets without end."""
    many = content.replace(b'"samples": 50', b'"samples": 5' + b"0" * 30).replace(b'"bytes": ', b'"bytes": 9999999')
    return many if many != content else b"[" * 100_000


HUGE: dict[str, Callable[[bytes], bytes]] = {
    ".png": huge_png,
    ".json": huge_json,
    ".jsonl": lambda content: b'{"file_name": ' * 100_000,
    ".csv": lambda content: content + b'a.png,"' + b"a" * 200_000 + b'"',
    ".mds": lambda content: content * 3,
    ".safetensors": lambda content: struct.pack("<Q", 2**62) + content[8:],
    ".yaml": lambda content: content.replace(b"dim: 32\n", b"dim: 1099511627776\n"),
    ".pt": huge_archive,
}


def says_one_sentence(capsys: pytest.CaptureFixture[str], use: Callable[[], object]) -> str:
    """What stderr holds after `use`, which must fail as a command does."""

    def command() -> None:
        with one_sentence_errors():
            raise SystemExit(use())

    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        command()
    lines = capsys.readouterr().err.splitlines()
    assert stop.value.code in (1, 2), "the damaged file was accepted"
    assert len(lines) <= 2 and "Traceback" not in lines[0]
    return lines[0]
