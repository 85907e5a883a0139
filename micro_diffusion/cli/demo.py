"""`micro-diffusion demo`."""

from __future__ import annotations

import os
from typing import Any

import click

from micro_diffusion.cli.arguments import POSITIVE, RUN
from micro_diffusion.cli.serve import TOKEN, check_host


@click.command(short_help="open a page to try runs in a browser")
@click.argument("runs", metavar="RUN...", type=RUN, nargs=-1, required=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; loopback needs no token.")
@click.option("--port", type=click.IntRange(1, 65535), default=7860, show_default=True)
@click.option("--device", help="cpu, cuda, cuda:1.  [default: cuda where there is one, else cpu]")
@click.option("--batch-size", type=POSITIVE, default=16, show_default=True, help="Images generated at once.")
@click.option("--images", type=POSITIVE, default=16, show_default=True, help="Most images of one request.")
@click.option("--steps", type=POSITIVE, default=100, show_default=True, help="Most steps of one request.")
@click.option("--side", type=POSITIVE, default=1024, show_default=True, help="Most pixels of a side.")
@click.option("--waiting", type=POSITIVE, default=32, show_default=True, help="Most requests that wait.")
def demo(runs: tuple[str, ...], host: str, port: int, device: str | None, **limits: Any) -> None:
    """Show a page to try each RUN in a browser: prompts, images to start from or paint on, and ways between prompts.

    Others than this machine are let in with the token that the environment variable MICRO_DIFFUSION_TOKEN holds, which
    the page asks for as a password. Needs the extra demo.
    """
    token = os.environ.get(TOKEN) or None
    check_host(host, token)
    try:
        from micro_diffusion.serving.page import Page
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise ModuleNotFoundError(
            "the page needs gradio, which is not installed; pip install 'micro_diffusion[demo]'"
        ) from error
    from micro_diffusion.generation.pipeline import Pipeline
    from micro_diffusion.serving.limits import Limits

    pipelines = {run: Pipeline.from_run(run, device=device) for run in runs}
    page = Page(pipelines, limits=Limits(**limits))
    print(f"{', '.join(pipelines)}: open http://{host}:{port}", flush=True)
    page.launch(host, port, token)
