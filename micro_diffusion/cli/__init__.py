"""The command `micro-diffusion`: one module for each of its commands, none of which imports torch before it runs."""

from micro_diffusion.cli.entry import main

__all__ = ["main"]
