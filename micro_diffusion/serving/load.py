"""A server under load: the same requests all at once and one after another, over HTTP on this machine."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from urllib.request import Request, urlopen

import uvicorn

from micro_diffusion.generation.pipeline import Pipeline
from micro_diffusion.performance.measurement import Measurement
from micro_diffusion.performance.report import Row
from micro_diffusion.performance.timing import measure_in_turn
from micro_diffusion.serving.application import application
from micro_diffusion.serving.limits import Limits

PATIENCE = 600.0
"""Seconds that a client waits for its answer, and twenty times as many as anybody for the server to start."""


def under_load(measured: Measurement, pipeline: Pipeline, *, clients: int, steps: int, prompt: str) -> Row:
    """Images a second of `clients` requests of one image each: together, and one after another, in turns.

    Args:
        measured: `batch_size` is that of the server.
        pipeline: what it serves.
        clients: requests, each with a seed of its own.
        steps: of the sampler.
        prompt: of all of them.
    """
    limits = Limits(batch_size=measured.batch_size, waiting=max(clients, 1), steps=steps)
    with served(application({"model": pipeline}, limits=limits)) as address, ThreadPoolExecutor(clients) as pool:

        def ask(seed: int) -> None:
            body = {"prompt": prompt, "seed": seed, "steps": steps}
            _answer(f"{address}/generate", json.dumps(body).encode())

        def together() -> None:
            list(pool.map(ask, range(clients)))

        def one_by_one() -> None:
            for seed in range(clients):
                ask(seed)

        how: dict[str, Any] = {name: getattr(measured, name) for name in ("warmup", "repeats", "device", "clock")}
        before = _batches(address)
        batched, alone = measure_in_turn([together, one_by_one], **how)
        repetitions = 1 + measured.warmup + measured.repeats
        batches = (_batches(address) - before) / repetitions - clients
    return {
        **measured.results(batched, clients),
        "one_by_one_images_per_second": clients / alone.seconds,
        "one_by_one_spread": alone.spread,
        "times_faster": alone.seconds / batched.seconds,
        "images_per_batch": clients / batches,
    }


@contextmanager
def served(app: Any) -> Iterator[str]:
    """The address on loopback at which a thread of this process serves an ASGI application."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="server", daemon=True)
        thread.start()
        deadline = time.monotonic() + PATIENCE / 20
        while not server.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError("the server has not started; look at what it says above")
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def _answer(address: str, body: bytes | None = None) -> bytes:
    with urlopen(Request(address, body, {"Content-Type": "application/json"}), timeout=PATIENCE) as answer:
        return answer.read()


def _batches(address: str) -> int:
    found = re.search(rb"^micro_diffusion_batches_total (\d+)$", _answer(f"{address}/metrics"), re.MULTILINE)
    assert found is not None
    return int(found[1])
