"""From a table of links to latents, with a web server on loopback that also fails in all the usual ways."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from micro_diffusion.data.format.metadata import LatentMetadata
from scripts.datasets import links

ROOT = Path(__file__).resolve().parents[2]
IMG2DATASET = os.environ.get("IMG2DATASET") or shutil.which("img2dataset")


def jpeg(seed: int, side: int = 300) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((side, side)).save(file, "JPEG")
    return file.getvalue()


class Answers(BaseHTTPRequestHandler):
    asked: list[str]

    def do_GET(self):
        kind = self.path.split("/")[1]
        self.asked.append(self.path)
        if kind == "gone":
            self.send_error(404)
            return
        if kind == "slow":
            time.sleep(5)
        content = {"html": b"<html>no image</html>", "broken": jpeg(1)[:200], "small": jpeg(2, side=40)}.get(kind)
        content = content or jpeg(int(self.path.split("/")[2]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format, *args):
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    service = ThreadingHTTPServer(("127.0.0.1", 0), type("Logged", (Answers,), {"asked": asked}))
    thread = threading.Thread(target=service.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{service.server_port}", asked
    service.shutdown()
    thread.join()


def recipe(folder: Path, *options: str) -> subprocess.CompletedProcess:
    programs = folder.parent / "programs"
    programs.mkdir(exist_ok=True)
    for name, target in (("python", sys.executable), ("img2dataset", IMG2DATASET)):
        if not (programs / name).exists():
            (programs / name).write_text(f'#!/bin/sh\nexec "{target}" "$@"\n')
            (programs / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{programs}:/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "PROCESSES": "1",
        "THREADS": "8",
        "TIMEOUT": "1",
        "NO_ALBUMENTATIONS_UPDATE": "1",
    }
    command = ["bash", str(ROOT / "scripts" / "datasets" / "urls.sh"), str(folder), "all", *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.skipif(IMG2DATASET is None, reason="img2dataset is not installed; IMG2DATASET may name its program")
def test_a_table_of_links_becomes_latents(tmp_path, server):
    address, asked = server
    kinds = ["fine/1", "gone/1", "html/1", "fine/2", "broken/1", "slow/1", "small/1", "fine/3", "gone/2"]
    rows = [[f"{address}/{kind}", f"a caption of {kind},\n on two lines"] for kind in kinds]
    with (tmp_path / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["where", "what"], *rows, [f"{address}/fine/4", ""]])
    options = ["table=" + str(tmp_path / "table.csv"), "url=where", "caption=what"]
    encoding = ["autoencoder=bundled", "text_encoder=tiny", "resolutions=[32]", "workers=0", "+engine.count=1"]

    done = recipe(tmp_path / "here", *options, *encoding)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "taken: 9; no caption: 1" in done.stdout
    assert "3 images of 9 links" in done.stdout
    failures = json.loads((tmp_path / "here" / "raw" / "failures.json").read_text())
    assert failures["HTTP Error 404: Not Found"] == 2
    assert sum(failures.values()) == 6 and len(failures) >= 4
    assert any("timed out" in reason for reason in failures)
    assert LatentMetadata.read(tmp_path / "here" / "latents").samples == 3

    before = len(asked)
    again = recipe(tmp_path / "here", *options, *encoding)
    assert again.returncode == 0, again.stderr[-3000:]
    assert len(asked) == before, "the same command downloads nothing twice"


@pytest.mark.slow
@pytest.mark.skipif(IMG2DATASET is None, reason="img2dataset is not installed; IMG2DATASET may name its program")
def test_without_a_network_it_says_so_and_tries_again(tmp_path, server):
    address, _ = server
    table = tmp_path / "table.csv"
    table.write_text("url,caption\nhttp://127.0.0.1:9/fine/1,one\n")
    options = [f"table={table}", "autoencoder=bundled", "text_encoder=tiny", "resolutions=[32]", "workers=0"]
    done = recipe(tmp_path / "here", *options)
    assert done.returncode != 0
    assert "none of 1 links gave an image (<urlopen error [Errno 111] Connection refused>: 1)" in done.stderr
    table.write_text(f"url,caption\n{address}/fine/1,one\n")
    done = recipe(tmp_path / "here", *options, "+engine.count=1")
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_table_without_the_columns_is_one_sentence(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("URL,TEXT\nhttp://x,one\n")
    with pytest.raises(ValueError, match=r"table\.csv has no column url and no caption; it has URL, TEXT"):
        links.check(str(table), "url", "caption", "all", str(tmp_path / "out.csv"))
    table.write_text("URL,TEXT\n,one\n")
    with pytest.raises(ValueError, match="has no row with a link in TEXT and a caption in URL"):
        links.check(str(table), "TEXT", "URL", "all", str(tmp_path / "out.csv"))
    with pytest.raises(FileNotFoundError, match="there is no table"):
        links.check(str(tmp_path / "none.csv"), "url", "caption", "all", str(tmp_path / "out.csv"))
    assert not (tmp_path / "out.csv").exists()


def test_a_parquet_table_gives_the_links_of_a_csv_table(tmp_path, capsys):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = {"URL": [f"http://x/{i}" for i in range(250)], "TEXT": [f"text {i}" for i in range(249)] + [None]}
    parquet.write_table(pyarrow.table(rows), tmp_path / "table.parquet")
    links.check(str(tmp_path / "table.parquet"), "URL", "TEXT", "all", str(tmp_path / "all.csv"))
    assert "taken: 249; no caption: 1" in capsys.readouterr().out
    links.check(str(tmp_path / "table.parquet"), "URL", "TEXT", "small", str(tmp_path / "small.csv"))
    assert (tmp_path / "all.csv").read_text().splitlines()[:2] == ["url,caption", "http://x/0,text 0"]
    assert len((tmp_path / "small.csv").read_text().splitlines()) == 1 + 3
    with pytest.raises(ValueError, match=r"table\.parquet has no column url"):
        links.check(str(tmp_path / "table.parquet"), "url", "TEXT", "all", str(tmp_path / "out.csv"))


def test_shards_without_an_image_are_forgotten_and_failures_added_up(tmp_path, capsys):
    for shard, status in (("00000", {"success": 3, "late": 1}), ("00001", {"late": 2, "gone": 1})):
        images = status.get("success", 0)
        stats = {"count": sum(status.values()), "successes": images, "status_dict": status}
        (tmp_path / f"{shard}_stats.json").write_text(json.dumps(stats))
        (tmp_path / f"{shard}.tar").touch()
    links.count(str(tmp_path))
    assert capsys.readouterr().out == "3 images of 7 links; late: 3; gone: 1\n"
    links.again(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000.tar", "00000_stats.json"]
