"""Terminals that do not know every character."""

from __future__ import annotations

import io
import sys


def escape_unknown_characters() -> None:
    r"""Print `\xe4` in the place of a character that a terminal's encoding lacks, rather than end with an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
