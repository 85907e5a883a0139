"""The command `micro-diffusion`: one module for each of its commands."""

from micro_diffusion.cli.entry import main

__all__ = ["main"]
