"""The command `serve` in a process of its own: many clients, one that hangs up, and SIGTERM in the middle."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.forked_process import free_port
from tests.run_folder import make_run

PROMPT = "a large red circle on a white background"
TOKEN = {"Authorization": "Bearer secret-of-the-test"}
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    make_run(tmp_path / "first")
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "micro_diffusion.cli", "serve", str(tmp_path / "first"), "--port", str(port)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "MICRO_DIFFUSION_TOKEN": "secret-of-the-test"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    address = f"http://127.0.0.1:{port}"
    for _ in range(600):
        try:
            httpx.get(f"{address}/health")
            break
        except httpx.TransportError:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.1)
    yield process, address
    process.kill()
    process.wait()


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_fifty_clients_one_that_hangs_up_and_the_end(server):
    process, address = server

    async def one(client: httpx.AsyncClient, seed: int, steps: int = 20) -> int:
        answer = await client.post("/generate", json={"prompt": PROMPT, "seed": seed, "steps": steps}, timeout=120)
        return answer.status_code

    async def arrived(client: httpx.AsyncClient, count: int) -> None:
        """Return when so many requests are in the server, this one and others."""
        for _ in range(400):
            text = (await client.get("/metrics", timeout=60)).text
            if int(re.findall(r"^micro_diffusion_open_requests (\d+)$", text, re.MULTILINE)[0]) >= count:
                return
            await asyncio.sleep(0.02)
        pytest.fail(f"fewer than {count} requests arrived:\n{text}")

    async def impatient(client: httpx.AsyncClient) -> None:
        with pytest.raises(httpx.ReadTimeout):
            await client.post(
                "/generate", json={"prompt": PROMPT, "steps": 100, "count": 8}, timeout=httpx.Timeout(60, read=0.05)
            )

    async def all_of_them() -> list[int]:
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(base_url=address, headers=TOKEN, limits=limits) as client:
            asked = [asyncio.create_task(one(client, seed)) for seed in range(50)]
            await asyncio.sleep(0.2)
            await impatient(client)
            first = await asyncio.gather(*asked)
            asked = [asyncio.create_task(one(client, seed, steps=100)) for seed in range(20)]
            await arrived(client, 20)
            process.send_signal(signal.SIGTERM)
            return [*first, *(await asyncio.gather(*asked))]

    assert asyncio.run(all_of_them()) == [200] * 70
    assert process.wait(60) in (0, -signal.SIGTERM)
    assert "Traceback" not in process.stderr.read()
