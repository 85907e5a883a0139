"""Secrets stay out of configurations, since those are saved beside the weights and shared with them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

NAME = re.compile(r"(^|_|\.)(api_?key|access_?key(_id)?|secret(_access)?(_key)?|token|password)$", re.I)
"""Names of settings and of environment variables that hold a secret."""

SHAPE = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}"  # Hugging Face
    r"|\b(AKIA|ASIA)[A-Z0-9]{16}\b"  # AWS
    r"|\bgh[pousr]_[A-Za-z0-9]{30,}"  # GitHub
    r"|\bsk-[A-Za-z0-9_-]{20,}"  # several model providers
    r"|://[^/\s:@]*:[^/\s@]+@"  # user and password of a URL
)
SHORTEST = 8
"""Characters of the shortest value that counts as a secret, so that no ordinary word does."""


def refuse_secrets(content: Mapping[Any, Any]) -> None:
    """Check that no value of a resolved configuration is a secret.

    Raises:
        ValueError: that names the key, but not the value.
    """
    known = _of_environment()
    for path, value in _texts(content):
        named = NAME.search(path) and len(value) >= SHORTEST
        if named or SHAPE.search(value) or any(secret in value for secret in known):
            raise ValueError(
                f"{path} holds a secret, which would be saved with the run; leave it out and give it in the "
                "environment, as WANDB_API_KEY, HF_TOKEN or AWS_SECRET_ACCESS_KEY"
            )


def redacted(text: str) -> str:
    """The text with every secret replaced by asterisks."""
    for secret in _of_environment():
        text = text.replace(secret, "***")
    return SHAPE.sub("***", text)


def _of_environment() -> list[str]:
    return [value for name, value in os.environ.items() if NAME.search(name) and len(value) >= SHORTEST]


def _texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a nested configuration, with its dotted key."""
    if isinstance(value, Mapping):
        for key, child in value.items():
            yield from _texts(child, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for child in value:
            yield from _texts(child, path)
    elif isinstance(value, str):
        yield path, value
