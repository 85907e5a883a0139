"""What a check has found.

A check is a function that returns what is good in a few words, and raises an error that says in one sentence what is
wrong and what to do; `Doubt` where training may go on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from micro_diffusion.training.config_checks.errors import sentence

State = Literal["good", "warning", "bad"]
COLOURS = {"good": 32, "warning": 33, "bad": 31}


class Doubt(Exception):
    """Something that need not stop a training, and what to do about it."""


class Finding(NamedTuple):
    """One line of the doctor's report."""

    subject: str
    state: State
    text: str


def find(subject: str, check: Callable[[], str], *, needed: bool = True) -> Finding:
    """Run a check; what fails and is not needed now is a warning."""
    try:
        return Finding(subject, "good", check())
    except Doubt as doubt:
        return Finding(subject, "warning", str(doubt))
    except Exception as error:  # whatever it is would also stop the training
        return Finding(subject, "bad" if needed else "warning", sentence(error))


def line(finding: Finding, width: int, *, coloured: bool) -> str:
    """The finding as text: state, subject padded to `width`, and the sentence."""
    state = finding.state.ljust(7)
    if coloured:
        state = f"\033[{COLOURS[finding.state]}m{state}\033[0m"
    return f"{state}  {finding.subject.ljust(width)}  {finding.text}"
