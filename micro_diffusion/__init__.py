"""micro_diffusion: train text-to-image diffusion models from scratch on a small budget.

from micro_diffusion import Pipeline
Pipeline.from_run("demo")("a large red circle on a white background")[0].save("circle.png")
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from micro_diffusion.machine.tensor_memory import HUGE_PAGES

if TYPE_CHECKING:
    from micro_diffusion.generation.pipeline import Pipeline
    from micro_diffusion.sampling.start import Between
    from micro_diffusion.training.run_config import run_config

os.environ.setdefault(HUGE_PAGES, "1")  # here, since torch reads it once

_HOMES = {
    "Between": "micro_diffusion.sampling.start",
    "Pipeline": "micro_diffusion.generation.pipeline",
    "run_config": "micro_diffusion.training.run_config",
}

__all__ = ["Between", "Pipeline", "run_config"]


def __getattr__(name: str) -> Any:
    """Import torch only when something that needs it is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
