"""The command `micro-diffusion`: chooses the command, and says in one sentence what went wrong."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click

from micro_diffusion.cli.completion import completion
from micro_diffusion.cli.data import data
from micro_diffusion.cli.demo import demo
from micro_diffusion.cli.doctor import doctor
from micro_diffusion.cli.ema import ema
from micro_diffusion.cli.evaluate import evaluate
from micro_diffusion.cli.export import export
from micro_diffusion.cli.generate import generate
from micro_diffusion.cli.import_ldm_vae import import_ldm_vae
from micro_diffusion.cli.import_microdit import import_microdit
from micro_diffusion.cli.import_tld import import_tld
from micro_diffusion.cli.look import look
from micro_diffusion.cli.nearest import nearest
from micro_diffusion.cli.plan import plan
from micro_diffusion.cli.report import compare, report
from micro_diffusion.cli.score import score
from micro_diffusion.cli.serve import serve
from micro_diffusion.cli.show import show
from micro_diffusion.cli.super_resolve import super_resolve
from micro_diffusion.machine.terminal import escape_unknown_characters
from micro_diffusion.training.config_checks.secrets import redact_output, redacted

PROGRAM = "micro-diffusion"
COMMANDS: tuple[click.Command, ...] = (
    generate,
    show,
    super_resolve,
    evaluate,
    score,
    report,
    compare,
    ema,
    export,
    import_microdit,
    import_tld,
    import_ldm_vae,
    serve,
    demo,
    look,
    nearest,
    plan,
    doctor,
    data,
    completion,
)


class InOrder(click.Group):
    """Lists its commands in the order in which they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands."""
        return list(self.commands)


program = InOrder(
    PROGRAM,
    {command.name or "": command for command in COMMANDS},
    help="Text-to-image diffusion models.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it worked, 2 after an error, which is one sentence on stderr."""
    redact_output()
    escape_unknown_characters()
    try:
        with plain_warnings():
            return program.main(arguments, PROGRAM, standalone_mode=False) or 0
    except click.NoSuchOption as error:
        near = f"did you mean {' or '.join(error.possibilities)}? " if error.possibilities else ""
        return _fail(f"unknown option {error.option_name}; {near}{_command(error)} --help lists what there is")
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except click.UsageError as error:
        return _fail(f"{_said(error)}; {_command(error)} --help explains it")
    except click.ClickException as error:
        return _fail(error.format_message())
    except (ValueError, OSError, ModuleNotFoundError) as error:
        return _fail(str(error))
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted")
        return 130
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
            return _fail("the memory of this machine does not hold this; lower --batch-size or --resolution")
        if type(error).__name__ != "OutOfMemoryError":  # of torch, which is not imported for its name alone
            raise
        return _fail("the GPU ran out of memory; lower --batch-size or --resolution")
    except Exception as error:
        if not type(error).__module__.startswith("hydra"):
            raise
        from micro_diffusion.training.config_checks.errors import sentence

        return _fail(sentence(error))


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Warnings of this package as plain lines on stderr, each once; those of libraries are left out."""

    def show(message, category, filename, lineno, file=None, line=None) -> None:
        print(f"{PROGRAM}: warning: {redacted(str(message))}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("default", category=UserWarning, module=r"micro_diffusion\.")
        warnings.showwarning = show
        yield


def _said(error: click.UsageError) -> str:
    """What click found wrong, with the option first."""
    if isinstance(error, click.BadParameter) and not isinstance(error, click.MissingParameter) and error.param:
        return f"{error.param.opts[0]}: {error.message}".rstrip(".")
    return error.format_message().replace(". Did you", ", did you").rstrip(".?")


def _command(error: click.UsageError) -> str:
    return error.ctx.command_path if error.ctx is not None else PROGRAM


def _fail(sentence: str) -> int:
    print(f"{PROGRAM}: error: {redacted(sentence)}", file=sys.stderr)
    return 2
