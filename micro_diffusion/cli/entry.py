"""The command `micro-diffusion`: chooses the command, and says in one sentence what went wrong."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from micro_diffusion.cli import data, doctor, evaluate, export, generate, import_microdit, plan
from micro_diffusion.training.config_checks.secrets import redact_output, redacted

COMMANDS = (generate, evaluate, export, import_microdit, plan, doctor, data)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it worked, 2 after an error, which is one sentence on stderr."""
    options = parse(arguments)
    redact_output()
    try:
        with plain_warnings():
            options.command(options)
    except torch.cuda.OutOfMemoryError:
        return _fail("the GPU ran out of memory; lower --batch-size or --resolution")
    except (ValueError, OSError, ModuleNotFoundError) as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        _fail("interrupted")
        return 130
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of one command; prompts may also follow options, which argparse alone would not allow."""
    top = parser()
    options, rest = top.parse_known_args(arguments)
    unknown = [text for text in rest if text.startswith("-") or not hasattr(options, "prompts")]
    if unknown:
        top.error(f"unknown option {unknown[0]}; micro-diffusion COMMAND --help lists what there is")
    if rest:
        options.prompts += rest
    return options


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = argparse.ArgumentParser(prog="micro-diffusion", description="Text-to-image diffusion models.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return top


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Warnings of this package as plain lines on stderr, each once; those of libraries are left out."""

    def show(message, category, filename, lineno, file=None, line=None) -> None:
        print(f"micro-diffusion: warning: {redacted(str(message))}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("default", category=UserWarning, module=r"micro_diffusion\.")
        warnings.showwarning = show
        yield


def _fail(sentence: str) -> int:
    print(f"micro-diffusion: error: {redacted(sentence)}", file=sys.stderr)
    return 2
