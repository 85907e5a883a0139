"""The HTTP interface, called in this process: what it answers, what it refuses, and what it makes of many at once."""

import asyncio
import base64
import io
import json
import threading
from pathlib import Path

import httpx
import pytest
from PIL import Image

from micro_diffusion import Pipeline
from micro_diffusion.serving.application import application
from micro_diffusion.serving.batching import Batcher
from micro_diffusion.serving.limits import Limits
from micro_diffusion.serving.metrics import Metrics
from tests.run_folder import make_run

PROMPT = "a large red circle on a white background"


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return Pipeline.from_run(make_run(tmp_path_factory.mktemp("runs") / "first"), device="cpu", precision="fp32")


def asked(app, *requests: tuple[str, str, dict], headers=None) -> list[httpx.Response]:
    """The answers to requests (method, path, options), all sent at once."""

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://here", headers=headers) as client:
            return await asyncio.gather(*(client.request(method, path, **how) for method, path, how in requests))

    return asyncio.run(ask())


def generate(app, **body) -> httpx.Response:
    return asked(app, ("POST", "/generate", {"json": body}))[0]


def opened(data: bytes | str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(data) if isinstance(data, str) else data))


def test_images_are_those_of_the_pipeline_and_carry_their_recipe(pipe):
    app = application({"first": pipe})
    answer = generate(app, prompt=[PROMPT, "a cat"], seed=4, steps=2).json()
    images = [opened(text) for text in answer["images"]]
    expected = pipe([PROMPT, "a cat"], seed=4, steps=2)
    assert [image.tobytes() for image in images] == [image.tobytes() for image in expected]
    assert json.loads(images[1].text["micro_diffusion"])["seeds"] == [[4, 1]]
    png = generate(app, prompt=PROMPT, seed=4, steps=2, format="png")
    assert png.headers["content-type"] == "image/png"
    assert opened(png.content).tobytes() == expected[0].tobytes()


def test_without_a_seed_every_answer_is_another(pipe):
    app = application({"first": pipe})
    first, second = (generate(app, prompt=PROMPT, steps=1).json() for _ in range(2))
    assert first["recipe"]["seeds"] != second["recipe"]["seeds"]


def test_clients_of_openai_get_what_they_read(pipe):
    app = application({"first": pipe})
    body = {"model": "first", "prompt": PROMPT, "n": 2, "size": "16x32", "response_format": "b64_json", "seed": 1}
    (answer,) = asked(app, ("POST", "/v1/images/generations", {"json": body}))
    data = answer.json()["data"]
    assert answer.json().keys() == {"created", "data"} and len(data) == 2
    assert opened(data[0]["b64_json"]).size == (16, 32)
    (models,) = asked(app, ("GET", "/v1/models", {}))
    assert [model["id"] for model in models.json()["data"]] == ["first"]


def test_models_health_and_metrics(pipe):
    app = application({"first": pipe, "second": pipe})
    generate(app, prompt=PROMPT, steps=1)
    generate(app, prompt="")
    models, health, metrics = asked(app, *(("GET", path, {}) for path in ("/models", "/health", "/metrics")))
    assert models.json()["models"][0] == {
        "name": "first",
        "resolution": [16, 16],
        "steps": 3,
        "guidance_scale": 2.0,
        "weights": "ema",
    }
    assert health.json() == {"status": "ok"}
    assert 'micro_diffusion_answers_total{status="200"}' in metrics.text
    assert 'micro_diffusion_answers_total{status="400"} 1\n' in metrics.text
    assert "micro_diffusion_images_total 1\n" in metrics.text


@pytest.mark.parametrize(
    ("body", "status", "problem"),
    [
        ({}, 400, "prompt: Field required"),
        ({"prompt": PROMPT, "stepss": 1}, 400, "stepss: Extra inputs are not permitted"),
        ({"prompt": PROMPT, "steps": 0}, 400, "steps: Input should be greater"),
        ({"prompt": PROMPT, "steps": 101}, 400, "101 steps are above the limit of 100"),
        ({"prompt": PROMPT, "count": 9}, 400, "9 images are above the limit of 8"),
        ({"prompt": "a" * 2001}, 400, "2001 characters of a prompt are above the limit"),
        ({"prompt": PROMPT, "resolution": 2048}, 400, "2048 pixels a side are above"),
        ({"prompt": PROMPT, "resolution": 18}, 400, "resolution 18 is not divisible by 4"),
        ({"prompt": PROMPT, "model": "none"}, 400, "there is no model none; choose one of first"),
        ({"prompt": PROMPT, "negative_prompt": "b", "guidance_scale": 1}, 400, "a negative prompt has no effect"),
        ({"prompt": PROMPT, "count": 2, "format": "png"}, 400, "2 images do not fit into one PNG"),
        ({"prompt": "a" * (1 << 20)}, 413, "more than 1048576 bytes"),
    ],
)
def test_what_is_refused_and_why(pipe, body, status, problem):
    answer = generate(application({"first": pipe}), **body)
    assert answer.status_code == status
    assert problem in answer.json()["error"]["message"]


def test_a_token_is_wanted_of_all_but_the_health(pipe):
    app = application({"first": pipe}, token="a long secret")
    assert [one.status_code for one in asked(app, ("GET", "/models", {}), ("GET", "/health", {}))] == [401, 200]
    wrong = {"Authorization": "Bearer another"}
    assert asked(app, ("GET", "/models", {}), headers=wrong)[0].status_code == 401
    right = {"Authorization": "Bearer a long secret"}
    assert asked(app, ("GET", "/models", {}), headers=right)[0].status_code == 200


def test_many_at_once_share_batches_and_none_is_lost(pipe):
    app = application({"first": pipe}, limits=Limits(batch_size=8))
    bodies = [{"prompt": PROMPT, "seed": index, "steps": 2 + index % 2} for index in range(20)]
    answers = asked(app, *(("POST", "/generate", {"json": body}) for body in bodies))
    for body, answer in zip(bodies, answers, strict=True):
        image = opened(answer.json()["images"][0])
        alone = pipe(body["prompt"], seed=body["seed"], steps=body["steps"])[0]
        assert max(abs(a - b) for a, b in zip(image.tobytes(), alone.tobytes(), strict=True)) <= 1
    (metrics,) = asked(app, ("GET", "/metrics", {}))
    batches = int(metrics.text.split("\nmicro_diffusion_batches_total ")[1].split()[0])
    assert 4 <= batches < 12


class Gate:
    """A pipeline that generates only when it may."""

    def __init__(self, pipe: Pipeline) -> None:
        self.pipe, self.open, self.sizes = pipe, threading.Event(), []

    def __getattr__(self, name):
        return getattr(self.pipe, name)

    def make(self, recipe, **how):
        self.open.wait(30)
        self.sizes.append(len(recipe.prompts))
        return self.pipe.make(recipe, **how)


def test_a_full_queue_says_to_come_again(pipe):
    gate = Gate(pipe)
    app = application({"first": gate}, limits=Limits(waiting=2, batch_size=1))
    threading.Timer(0.5, gate.open.set).start()
    body = {"json": {"prompt": PROMPT, "steps": 1}}
    answers = asked(app, *[("POST", "/generate", body)] * 8)
    statuses = sorted(one.status_code for one in answers)
    assert statuses[:2] == [200, 200] and statuses[-1] == 503
    refused = next(one for one in answers if one.status_code == 503)
    assert refused.headers["retry-after"] == "5" and "try again later" in refused.json()["error"]["message"]


def test_what_is_cancelled_in_the_queue_is_not_generated(pipe):
    gate = Gate(pipe)
    batcher = Batcher({"first": gate}, batch_size=4, queue_length=9, patience=0, metrics=Metrics())
    recipe = pipe.recipe(PROMPT, steps=1)
    first = batcher.submit("first", recipe)
    while not first.running():
        pass
    second, third = batcher.submit("first", recipe), batcher.submit("first", recipe)
    second.cancel()
    gate.open.set()
    batcher.close()
    assert third.result()[0].size == (16, 16)
    assert gate.sizes == [1, 1]


def test_an_error_is_told_and_the_next_request_works(pipe, monkeypatch):
    app = application({"first": pipe})
    with monkeypatch.context() as patched:
        patched.setattr(Pipeline, "make", lambda *_, **__: (_ for _ in ()).throw(ValueError("no luck")))
        assert generate(app, prompt=PROMPT).json()["error"]["message"] == "no luck"
    assert generate(app, prompt=PROMPT, steps=1).status_code == 200


def test_a_slow_client_is_not_waited_for(pipe):
    app = application({"first": pipe}, limits=Limits(seconds=0.05))
    sent = []

    async def receive():
        await asyncio.sleep(10)

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": "/generate", "method": "POST", "headers": []}
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 408


def test_others_may_reach_it_with_a_token_alone(capsys, monkeypatch, tmp_path: Path):
    from micro_diffusion import cli

    monkeypatch.delenv("MICRO_DIFFUSION_TOKEN", raising=False)
    assert cli.main(["serve", "demo", "--host", "0.0.0.0"]) == 2
    assert "others can reach 0.0.0.0, but there is no token" in capsys.readouterr().err
