"""Random numbers that follow from what they are for, whatever was drawn before and whoever draws."""

from __future__ import annotations

import hashlib


def whole_number(*origin: int | str) -> int:
    """Uniform from 0 to 2^64 - 1; those of other origins have nothing to do with it."""
    digest = hashlib.blake2b("/".join(map(str, origin)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def uniform(*origin: int | str) -> float:
    """The same, from 0 to 1."""
    return whole_number(*origin) / 2**64
