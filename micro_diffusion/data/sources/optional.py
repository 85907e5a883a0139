"""Libraries that only some sources need."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def optional(library: str, *, extra: str) -> ModuleType:
    """A library that the package does not need by itself.

    Raises:
        ImportError: that names the extra of this package which brings it.
    """
    try:
        return import_module(library)
    except ImportError as error:
        raise ImportError(
            f"this source needs the library {library.partition('.')[0]}; install it: "
            f"pip install 'micro_diffusion[{extra}]'"
        ) from error
