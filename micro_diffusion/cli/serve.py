"""`micro-diffusion serve`."""

from __future__ import annotations

import os
from ipaddress import ip_address
from typing import Any

import click

from micro_diffusion.cli.arguments import POSITIVE, RUN, ConfigName

TOKEN = "MICRO_DIFFUSION_TOKEN"


@click.command(short_help="generate images for clients over HTTP")
@click.argument("runs", metavar="RUN...", type=RUN, nargs=-1, required=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; loopback needs no token.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
@click.option("--device", help="cpu, cuda, cuda:1.  [default: cuda where there is one, else cpu]")
@click.option("--sampler", type=ConfigName("sampler"), help="A name of configs/sampler.  [default: the run's own]")
@click.option("--levels", type=ConfigName("levels"), help="A name of configs/levels.  [default: the run's own]")
@click.option("--batch-size", type=POSITIVE, default=16, show_default=True, help="Images generated at once.")
@click.option("--images", type=POSITIVE, default=8, show_default=True, help="Most images of one request.")
@click.option("--steps", type=POSITIVE, default=100, show_default=True, help="Most steps of one request.")
@click.option("--side", type=POSITIVE, default=1024, show_default=True, help="Most pixels of a side.")
@click.option("--waiting", type=POSITIVE, default=256, show_default=True, help="Most images that wait.")
def serve(
    runs: tuple[str, ...],
    host: str,
    port: int,
    device: str | None,
    sampler: str | None,
    levels: str | None,
    **limits: Any,
) -> None:
    """Serve each RUN as a model over HTTP, the first as the default.

    GET /health, /metrics, /models, /v1/models; POST /generate, and /v1/images/generations for clients of OpenAI's API.
    The token that requests must bear is that of the environment variable MICRO_DIFFUSION_TOKEN. Needs the extra serve.
    """
    token = os.environ.get(TOKEN) or None
    check_host(host, token)
    try:
        import uvicorn

        from micro_diffusion.serving.application import application
    except ModuleNotFoundError as error:
        if error.name not in ("uvicorn", "fastapi", "starlette"):
            raise
        raise ModuleNotFoundError(
            f"serving needs {error.name}, which is not installed; pip install 'micro_diffusion[serve]'"
        ) from error
    from micro_diffusion.generation.pipeline import Pipeline
    from micro_diffusion.serving.limits import Limits

    pipelines = {
        run.rstrip("/").split("/")[-1]: Pipeline.from_run(run, device=device, sampler=sampler, levels=levels)
        for run in runs
    }
    if len(pipelines) < len(runs):
        raise ValueError(f"several of {', '.join(runs)} have the same name; give folders of different names")
    app = application(pipelines, token=token, limits=Limits(**limits))
    print(f"serving {', '.join(pipelines)} at http://{host}:{port}", flush=True)
    uvicorn.run(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=120)


def check_host(host: str, token: str | None) -> None:
    """Raise ValueError when others could reach the server without a token."""
    try:
        loopback = ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if not loopback and token is None:
        raise ValueError(
            f"others can reach {host}, but there is no token; set the environment variable {TOKEN} to a long secret, "
            "or use --host 127.0.0.1"
        )
