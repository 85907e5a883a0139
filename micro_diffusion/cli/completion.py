"""`micro-diffusion completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command(short_help="print what a shell needs to complete commands, options and runs")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    r"""Print the completion of commands, options, samplers and runs for a shell.

    \b
    bash   micro-diffusion completion bash > ~/.local/share/bash-completion/completions/micro-diffusion
    zsh    micro-diffusion completion zsh > ~/.zfunc/_micro-diffusion    # a folder of your $fpath
    fish   micro-diffusion completion fish > ~/.config/fish/completions/micro-diffusion.fish
    """
    program = context.find_root()
    name = program.info_name or ""
    kind = get_completion_class(shell)
    if kind is None:
        raise ValueError(f"there is no completion for {shell}; choose bash, zsh or fish")
    variable = f"_{name}_COMPLETE".replace("-", "_").upper()
    if shell == "bash":  # click's own source() asks bash for its version, which need not be installed here
        print(kind.source_template % kind(program.command, {}, name, variable).source_vars())
    else:
        print(kind(program.command, {}, name, variable).source())
