"""The warning that every text encoder gives for a caption longer than it can hold."""

from __future__ import annotations

import warnings


def warn_of_cut(caption: str, cut: str, max_length: int) -> None:
    """Warn that `cut`, the end of `caption`, did not fit into `max_length` tokens."""
    warnings.warn(
        f"caption {_shortened(caption)!r} is longer than {max_length} tokens; these words were cut and have no "
        f"effect: {cut!r}",
        stacklevel=3,
    )


def _shortened(text: str, length: int = 60) -> str:
    return text if len(text) <= length else f"{text[:length]}…"
