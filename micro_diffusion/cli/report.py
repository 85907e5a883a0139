"""`micro-diffusion report` and `micro-diffusion compare`."""

from __future__ import annotations

from pathlib import Path

import click

from micro_diffusion.cli.arguments import FILE, RUN


def _page(runs: tuple[str, ...], out: Path) -> None:
    """Show each RUN on one HTML page: losses, scores over steps, sweeps of guidance and steps, and samples.

    Reads metrics.jsonl, samples and evaluations/*.json of the run folder, where `evaluate --out` may write its reports:
    those that differ in the guidance scale or the steps alone become a chart with the best marked. The page needs no
    other file and no network.
    """
    from micro_diffusion.evaluation.run_page import read_run, run_page
    from micro_diffusion.files.run_folders import find_run
    from micro_diffusion.files.whole_file import whole_file

    records = [read_run(find_run(name)) for name in runs]
    with whole_file(out) as unfinished:
        unfinished.write_text(run_page(records), encoding="utf-8")
    print(f"{out}: {', '.join(record.name for record in records)}")


def _command(name: str, short_help: str) -> click.Command:
    command = click.command(name, short_help=short_help)(_page)
    argument = click.Argument(["runs"], metavar="RUN...", type=RUN, nargs=-1, required=True)
    option = click.Option(["--out"], type=FILE, default=f"{name}.html", show_default=True, help="HTML file.")
    command.params = [argument, option]
    return command


report = _command("report", "show a run's training on one HTML page")
compare = _command("compare", "show several runs on one HTML page")
