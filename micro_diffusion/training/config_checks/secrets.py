"""Secrets stay out of configurations, which are saved and shared with the weights, and of what a process says."""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

_SECRET_NAME = (
    r"(?:^|(?<=[_.\-\s?&;,'\"]))(?:api[_-]?key|access[_-]?key(?:[_-]?id)?|secret(?:[_-]?access)?(?:[_-]?key)?|account[_-]?key"
    r"|private[_-]?key|token|password|passwd|passphrase|authorization|credentials?|connection[_-]?string)"
)
NAME = re.compile(f"{_SECRET_NAME}$", re.I)
"""Names of settings and of environment variables that hold a secret."""

SHORTEST = 8
"""Characters of the shortest value that counts as a secret, so that no ordinary word does."""

_USER = r"://[^/\s:@]*:"
SHAPE = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}"  # Hugging Face
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"  # AWS
    r"|\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{20,}"  # GitHub
    r"|\bglpat-[\w-]{20,}"  # GitLab
    r"|\bAIza[\w-]{30,}"  # Google
    r"|\br8_[A-Za-z0-9]{30,}"  # Replicate
    r"|\bwandb_v1_\w{20,}"  # Weights & Biases
    r"|\bsk-[\w-]{20,}"  # several model providers
    r"|\beyJ[\w-]{10,}\.[\w-]{10,}(?:\.[\w-]*)?"  # JSON web tokens
    r"|\b(?i:bearer)\s+(?=\S*\d)[\w.~+/=-]{16,}"  # the header Authorization
    r"|[?&;](?i:sig|x-(?:amz|goog)-(?:signature|security-token))=[^&\s]{8,}"  # signed URLs
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*(?:-----END [A-Z ]*-----)?"
    rf"|(?:(?<=s3)|(?<=gs)|(?<=oci)|(?<=azure)){_USER}[^\s'\"]+@"  # user and password of a URL, slashes and all
    rf"|{_USER}(?!\d{{1,5}}/)[^\s'\"]+@"  # where they might also be a port and a path
    r"|(?:(?<=http)|(?<=https))://[^/\s:@]{16,}@"  # a URL whose user is a token
)
_ASSIGNED = re.compile(rf"(?P<name>{_SECRET_NAME}=)[^\s&;'\"]{{{SHORTEST},}}", re.I)


def refuse_secrets(content: Mapping[Any, Any]) -> None:
    """Check that no value and no key of a resolved configuration is a secret.

    Raises:
        ValueError: that names the key, but not the value.
    """
    known = _of_environment()
    for path, text in _texts(content):
        named = NAME.search(path) and len(text) >= SHORTEST
        if named or SHAPE.search(text) or _ASSIGNED.search(text) or any(secret in text for secret in known):
            raise ValueError(
                f"{redacted(path)} holds a secret, which would be saved with the run; leave it out and give it in the "
                "environment, as WANDB_API_KEY, HF_TOKEN or AWS_SECRET_ACCESS_KEY"
            )


def redacted(text: str) -> str:
    """The text with every secret replaced by asterisks."""
    for secret in _of_environment():
        text = text.replace(secret, "***")
    return _ASSIGNED.sub(r"\g<name>***", SHAPE.sub("***", text))


def redact_output() -> None:
    """From now on, replace secrets in every line of the log and in tracebacks that end the process."""
    for handler in (*logging.getLogger().handlers, logging.lastResort):
        if handler is not None and _redact_record not in handler.filters:
            handler.addFilter(_redact_record)
    sys.excepthook = _show_redacted


def _redact_record(record: logging.LogRecord) -> bool:
    record.msg, record.args = redacted(record.getMessage()), None
    if record.exc_info:
        record.exc_text = redacted(logging.Formatter().formatException(record.exc_info))
    return True


def _show_redacted(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    print(redacted("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)


def _of_environment() -> list[str]:
    """Longest first, since one may be a part of another."""
    found = [value for name, value in os.environ.items() if NAME.search(name) and len(value) >= SHORTEST]
    return sorted(found, key=len, reverse=True)


def _texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a nested configuration, keys too, with its dotted key."""
    if isinstance(value, Mapping):
        for key, child in value.items():
            inner = f"{path}.{key}" if path else str(key)
            yield f"{inner} (the key itself)", str(key)
            yield from _texts(child, inner)
    elif isinstance(value, list):
        for child in value:
            yield from _texts(child, path)
    elif isinstance(value, str):
        yield path, value
