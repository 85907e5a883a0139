"""The page in headless Chromium: somebody types, presses, paints, and sees images; also on a phone."""

import io
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import httpx
import numpy as np
import pytest
from PIL import Image

from micro_diffusion.checkpoint import save_weights, write_config
from micro_diffusion.evaluation.recognition import recognise
from micro_diffusion.generation.recipe import read_recipe
from tests.forked_process import free_port
from tests.run_folder import BACKBONE, CONFIG, random_backbone

pytest.importorskip("gradio", reason="the extra demo is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def served(*runs: str, **environment: str) -> Iterator[str]:
    port = free_port()
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-m", "micro_diffusion.cli", "demo", *runs, "--port", str(port)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment},
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(1200):
            try:
                httpx.get(address)
                break
            except httpx.TransportError:
                assert process.poll() is None
                time.sleep(0.1)
        yield address
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a page with the demo and a run that knows classes."""
    folder = tmp_path_factory.mktemp("runs") / "animals"
    encoder = {"_target_": "micro_diffusion.text.classes.ClassEncoder", "names": ["a cat", "a dog", "a cow"]}
    prompts = {**CONFIG["prompts"], "captions": ["a dog"]}
    write_config(
        folder,
        {**CONFIG, "text_encoder": encoder, "prompts": prompts, "backbone": {**CONFIG["backbone"], "caption_dim": 3}},
    )
    save_weights(folder, random_backbone(1, **{**BACKBONE, "caption_dim": 3}).state_dict(), "ema")
    yield from served("demo", str(folder))


@pytest.fixture(params=["desktop", "phone"])
def page(browser: Any, address: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Fails when the page asks another machine for something, or a script of its own fails."""
    size = {"desktop": (1200, 1000), "phone": (390, 844)}[request.param]
    opened, outside, errors = browser.new_page(viewport=dict(zip(("width", "height"), size, strict=True))), [], []
    opened.set_default_timeout(60_000)
    opened.on("request", lambda one: outside.append(one.url) if one.url.startswith("http") else None)
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.goto(address)
    opened.get_by_role("button", name="Generate").wait_for()
    playwright.expect(opened.get_by_label("Prompt", exact=True)).to_have_value(
        "a large red circle on a white background", timeout=30_000
    )
    yield opened
    assert opened.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert [url for url in outside if not url.startswith(address)] == [] and errors == []
    opened.close()


def press(page: Any, images: int) -> list[bytes]:
    """The files of the newest images, when they are there."""
    page.get_by_label("number input for Images").fill(str(images))
    page.get_by_role("button", name="Generate").click()
    page.get_by_text("waiting for the network").or_(page.get_by_text("step ")).first.wait_for()
    page.get_by_text(f"{images} image").wait_for()
    page.wait_for_timeout(300)
    found = page.locator(".grid-container img")
    return [urlopen(found.nth(index).get_attribute("src")).read() for index in range(images)]


def seen(data: bytes) -> list[tuple[str, str | None]]:
    found = recognise(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    return sorted((one.colour, one.shape) for one in found.objects)


def test_type_press_start_from_it_and_paint(page, tmp_path):
    page.get_by_label("Prompt", exact=True).fill("a large blue square on a white background")
    page.get_by_label("Seed", exact=True).fill("3")
    files = press(page, 2)
    assert all(seen(file) == [("blue", "square")] for file in files)
    (tmp_path / "image.png").write_bytes(files[1])
    assert read_recipe(tmp_path / "image.png")["seeds"] == [[3, 1]]
    assert "a large blue square" in page.locator("#recipe textarea").input_value()

    page.get_by_role("button", name="Start from this image").click()
    page.get_by_label("Strength of the change").first.wait_for()
    page.get_by_label("an image, changed where I paint").click()
    page.get_by_text("Paint over what is to change").wait_for()
    page.wait_for_timeout(1000)
    page.locator("canvas").scroll_into_view_if_needed()
    box = page.locator("canvas").bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    for share in np.linspace(0.02, 0.98, 12):
        across = 0.02 if round(share * 100) % 2 else 0.98
        page.mouse.move(box["x"] + across * box["width"], box["y"] + share * box["height"], steps=4)
    page.mouse.up()
    page.get_by_label("Prompt", exact=True).fill("a large red square on a white background")
    (changed,) = press(page, 1)
    first, second = (np.asarray(Image.open(io.BytesIO(one)).convert("RGB"), dtype=int) for one in (files[0], changed))
    same = (np.abs(first - second).max(axis=-1) <= 1).mean()
    assert 0.02 < same < 0.98


def test_details_and_a_region(page):
    page.get_by_role("button", name="Details").click()
    page.get_by_label("Noise levels", exact=True).click()
    page.get_by_role("option", name="exponential").click()
    page.get_by_label("number input for Guidance rescale").fill("0.5")
    press(page, 1)
    recipe = page.locator("#recipe textarea").input_value()
    assert "levels: exponential" in recipe and "guidance_rescale: 0.5" in recipe
    page.get_by_role("button", name="Start from this image").click()
    page.get_by_label("Strength of the change").first.wait_for()
    page.get_by_label("an image, changed where I paint").click()
    page.get_by_label("What changes", exact=True).click()
    page.get_by_role("option", name="right").click()
    page.locator("canvas").wait_for(state="hidden")
    press(page, 1)
    playwright.expect(page.locator("#recipe textarea")).to_have_value(re.compile("region: right"), timeout=60_000)
    page.get_by_label("Guide away from", exact=True).click()
    page.get_by_role("option", name="animals").click()
    page.get_by_role("button", name="Generate").click()
    page.get_by_text("choose a run that was trained with the same").wait_for()


def test_ways_classes_and_errors(page):
    page.get_by_label("one prompt to another").click()
    page.get_by_label("To the prompt").fill("a large yellow circle on a white background")
    assert len(press(page, 3)) == 3
    page.get_by_label("Seed", exact=True).fill("three")
    page.get_by_role("button", name="Generate").click()
    page.get_by_text("the seed 'three' is no whole number").wait_for()
    page.get_by_label("Seed", exact=True).fill("")
    page.get_by_label("noise").click()
    page.get_by_label("Run", exact=True).click()
    page.get_by_role("option", name="animals").click()
    page.get_by_label("Class", exact=True).click()
    page.get_by_role("option", name="a cow").click()
    press(page, 1)
    assert "prompts: a cow" in page.locator("#recipe textarea").input_value()


def test_a_page_with_a_token_shows_nothing_without_it():
    pages = served("demo", MICRO_DIFFUSION_TOKEN="a-secret")
    address = next(pages)
    with httpx.Client(base_url=address) as client:
        assert client.get("/config").status_code == 401
        assert client.post("/login", data={"username": "me", "password": "wrong"}).status_code == 400
        assert client.post("/login", data={"username": "me", "password": "a-secret"}).status_code == 200
        assert client.get("/config").status_code == 200
    pages.close()
