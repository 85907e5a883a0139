"""Values of options that click does not know by itself. No module of a command imports torch before it runs."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from micro_diffusion.files.configs import configs_folder
from micro_diffusion.files.outputs import make_folder
from micro_diffusion.files.run_folders import BUNDLED, RUNS, run_folders

FILE = click.Path(path_type=Path)
"""A path, which need not exist."""


class OutputPath(click.Path):
    """A file or a folder to be written; what ends in a slash is a folder, whatever dots are in its name."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path; a folder that is named so is made at once, or click says why it cannot be."""
        path = Path(str(super().convert(value, param, ctx)))
        if str(value).endswith(("/", os.sep)):
            try:
                make_folder(path)
            except OSError as error:
                self.fail(str(error), param, ctx)
        return path


class Positive(click.ParamType):
    """A whole number of at least 1."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number; click says in which option it is wrong."""
        try:
            number = int(value)
        except ValueError:
            self.fail(f"{value!r} is no whole number; use one of at least 1", param, ctx)
        if number < 1:
            self.fail(f"{number} is too few; use at least 1", param, ctx)
        return number


class Price(click.ParamType):
    """Dollars, at least none."""

    name = "dollars"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number of dollars; click says in which option it is wrong."""
        try:
            dollars = float(value)
        except ValueError:
            dollars = math.nan
        if not 0 <= dollars < math.inf:
            self.fail(f"{value} is no price; use a number of dollars of at least 0", param, ctx)
        return dollars


class Resolution(click.ParamType):
    """`256`, or `HEIGHTxWIDTH`, in pixels."""

    name = "pixels"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | tuple[int, int] | None:
        """The sides; click says in which option they are wrong."""
        if not isinstance(value, str):
            return value
        try:
            sides = [int(side) for side in value.lower().split("x")]
        except ValueError:
            self.fail(f"{value!r} is no size; use one number of pixels, or HEIGHTxWIDTH", param, ctx)
        if min(sides) < 1:
            self.fail(f"{value} is no size; use at least 1 pixel", param, ctx)
        if len(sides) > 2:
            self.fail(f"{value!r} has {len(sides)} sides; use one number, or HEIGHTxWIDTH", param, ctx)
        return sides[0] if len(sides) == 1 else (sides[0], sides[1])


class Numbers(click.ParamType):
    """`5,1,1`: a number for each stage of a cascade."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[float]:
        """The numbers; click says in which option they are wrong."""
        if not isinstance(value, str):
            return value
        try:
            return [float(number) for number in value.split(",")]
        except ValueError:
            self.fail(f"{value!r} is no list of numbers; write it as 5,1,1", param, ctx)


class RunName(click.ParamType):
    """A run by its folder or name; completed with the names that exist."""

    name = "run"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Runs in trained_models, bundled ones, then whatever folder the shell knows."""
        names = [name for parent in (RUNS, BUNDLED) for name in run_folders(parent) if name.startswith(incomplete)]
        known = [CompletionItem(name) for name in names]
        return known or [CompletionItem(incomplete, type="dir")]


class ConfigName(click.ParamType):
    """An option of one group of the configurations; completed with those that ship."""

    name = "name"

    def __init__(self, group: str) -> None:
        self.group = group

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Names of the YAML files in that folder."""
        names = sorted(path.stem for path in (configs_folder() / self.group).glob(f"{incomplete}*.yaml"))
        return [CompletionItem(name) for name in names]


NUMBERS, POSITIVE, PRICE, RESOLUTION, RUN = Numbers(), Positive(), Price(), Resolution(), RunName()
OUT = OutputPath(path_type=Path)
WEIGHTS = click.Choice(["ema", "raw"])
