"""micro_diffusion: train text-to-image diffusion models from scratch on a small budget."""

import os

from micro_diffusion.machine.tensor_memory import HUGE_PAGES

os.environ.setdefault(HUGE_PAGES, "1")  # here, since torch reads it once
