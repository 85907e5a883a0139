"""The HTTP interface, called in this process: what it answers, what it refuses, and what it makes of many at once."""

import asyncio
import base64
import dataclasses
import io
import json
import threading
from pathlib import Path

import httpx
import pytest
import torch
from PIL import Image

from micro_diffusion import Pipeline
from micro_diffusion.checkpoint import save_weights, write_config
from micro_diffusion.serving.application import application
from micro_diffusion.serving.batching import Batcher
from micro_diffusion.serving.limits import Limits
from micro_diffusion.serving.metrics import Metrics
from micro_diffusion.serving.sent_image import sent_image
from tests.run_folder import BACKBONE, CONFIG, make_run, random_backbone

PROMPT = "a large red circle on a white background"


def coded(image: Image.Image, kind: str = "PNG") -> str:
    file = io.BytesIO()
    image.save(file, kind)
    return base64.b64encode(file.getvalue()).decode()


GIVEN = Image.linear_gradient("L").resize((16, 16)).convert("RGB")
HALF = Image.new("L", (16, 16))
HALF.paste(255, (8, 0, 16, 16))
SENT = coded(GIVEN)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    run = make_run(tmp_path_factory.mktemp("runs") / "second", ema=2)
    return Pipeline.from_run(run, device="cpu", precision="fp32")


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
        ({"prompt": PROMPT, "count": 10**12}, 400, "1000000000000 images are above the limit of 8"),
        ({"prompt": [PROMPT] * 3, "seed": [1, 2, 3]}, 400, "9 images are above the limit of 8"),
        ({"prompt": []}, 400, "at least 1 item"),
        (
            {"prompt": PROMPT, "sampler": "../sampler/heun"},
            400,
            "there is no sampler ../sampler/heun; choose one of dpm",
        ),
        ({"prompt": PROMPT, "levels": "none"}, 400, "there is no list of levels none; choose one of exponential"),
        ({"prompt": PROMPT, "levels": "table_steps"}, 400, "levels table_steps do not fit the objective"),
        ({"prompt": PROMPT, "weaker": "first"}, 400, "no weaker run first; serve another run beside this one"),
        ({"prompt": PROMPT, "guidance_rescale": 2}, 400, "rescal"),
        ({"prompt": PROMPT, "guidance_interval": [5, 1]}, 400, "interval"),
        ({"prompt": PROMPT, "strength": 0.5}, 400, "strength=0.5 has no effect without an image"),
        ({"prompt": PROMPT, "image": "AAAA", "strength": 0.5}, 400, "image is no image; send a PNG, JPEG or WebP"),
        ({"prompt": PROMPT, "image": "not base64!"}, 400, "image is no image; send a PNG, JPEG or WebP"),
        ({"prompt": PROMPT, "image": SENT}, 400, "an image is given without strength and mask"),
        ({"prompt": PROMPT, "image": SENT, "region": "middle"}, 400, "there is no region 'middle'"),
        ({"prompt": PROMPT, "image": SENT, "region": "left", "resamplings": 11}, 400, "11 resamplings are above"),
        ({"prompt": PROMPT, "image": SENT, "extend": "right=2000"}, 400, "2000 pixels to add are above"),
        ({"prompt": PROMPT, "image": SENT, "extend": "right=80"}, 400, "10 images are above the limit of 8"),
        ({"prompt": "a" * (8 << 20)}, 413, "more than 8388608 bytes"),
    ],
)
def test_what_is_refused_and_why(pipe, body, status, problem):
    answer = generate(application({"first": pipe}), **body)
    assert answer.status_code == status
    assert problem in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "options",
    [
        {"seed": [3, -1], "resolution": [16, 32]},
        {"sampler": "euler", "levels": "exponential", "guidance_rescale": 0.7},
        {"guidance_interval": [0.001, 5], "negative_prompt": "a cat"},
        {"weaker": "second"},
        {"image": SENT, "strength": 0.6},
        {"image": f"data:image/png;base64,{SENT}", "mask": coded(HALF), "resamplings": 2},
        {"image": SENT, "region": "left"},
        {"image": SENT, "extend": "right=12"},
    ],
)
def test_every_option_of_generating_is_that_of_the_pipeline(pipe, other, options):
    """Against a pipeline that is opened with them, as the command does."""
    app = application({"first": pipe, "second": other})
    answer = generate(app, prompt=PROMPT, **{"seed": 4, "steps": 2, **options})
    assert answer.status_code == 200, answer.text
    opening = {name: options[name] for name in ("sampler", "levels", "weaker") if name in options}
    opening = {**opening, **({"weaker": other.run.folder} if "weaker" in opening else {})}
    alone = Pipeline.from_run(pipe.run.folder, device="cpu", precision="fp32", **opening)
    rest = {name: value for name, value in {"seed": 4, **options}.items() if name not in opening}
    rest |= {name: image for name, image in (("image", GIVEN), ("mask", HALF)) if name in options}
    expected = alone(PROMPT, steps=2, **rest)
    images = [opened(text) for text in answer.json()["images"]]
    assert [image.tobytes() for image in images] == [image.tobytes() for image in expected]
    recipe = answer.json()["recipe"]
    kept = {name: value for name, value in options.items() if name in recipe and name not in ("image", "mask")}
    assert all(recipe[name] == value for name, value in kept.items())
    assert "image" not in options or recipe["image"] == "sent with the request"


def test_whatever_the_command_takes_a_request_takes_too():
    from micro_diffusion.cli.cascade_options import CascadeOptions
    from micro_diffusion.cli.generate import generate as command
    from micro_diffusion.serving.requests import GenerateRequest

    of_the_server = {"run", "device", "weights", "precision", "compile", "batch_size", "configs"}
    of_files = {"prompts_file", "out", "frames", "fps"}
    of_cascades = {field.name for field in dataclasses.fields(CascadeOptions)} - {"image"}
    options = {option.name for option in command.params} - of_the_server - of_files - of_cascades
    renamed = {"prompts": "prompt", "seeds": "seed", "negative": "negative_prompt"}
    expected = {renamed.get(str(name), name) for name in options}
    assert set(GenerateRequest.model_fields) == expected | {"model", "format"}


def test_one_wrong_request_of_a_batch_fails_alone(tmp_path: Path):
    encoder = {"_target_": "micro_diffusion.text.classes.ClassEncoder", "names": ["a cat", "a dog"]}
    backbone = {**CONFIG["backbone"], "caption_dim": 2}
    prompts = {**CONFIG["prompts"], "captions": ["a dog"]}
    write_config(tmp_path, {**CONFIG, "text_encoder": encoder, "backbone": backbone, "prompts": prompts})
    save_weights(tmp_path, random_backbone(1, **{**BACKBONE, "caption_dim": 2}).state_dict(), "ema")
    app = application({"animals": Pipeline.from_run(tmp_path, device="cpu", precision="fp32")})
    bodies = [{"prompt": prompt, "seed": 1, "steps": 1} for prompt in ("a cat", "a unicorn", "a dog")]
    answers = asked(app, *(("POST", "/generate", {"json": body}) for body in bodies))
    assert [answer.status_code for answer in answers] == [200, 400, 200]
    assert "a unicorn" in answers[1].json()["error"]["message"]
    (models,) = asked(app, ("GET", "/models", {}))
    assert models.json()["models"][0]["classes"] == ["a cat", "a dog"]
    assert {"euler", "heun"} < set(models.json()["sampler"]) and "karras" in models.json()["levels"]


def test_too_little_memory_is_said(pipe, monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Pipeline, "make", fail)
    answer = generate(application({"first": pipe}), prompt=PROMPT)
    assert answer.status_code == 503 and "ask for fewer or smaller images" in answer.json()["error"]["message"]


def test_images_that_are_sent_are_not_trusted():
    assert sent_image(coded(GIVEN, "JPEG"), "image").size == (16, 16)
    large, narrow = Image.new("L", (4097, 4000)), Image.new("L", (90, 10))
    for image, said in ((large, "4097×4000 pixels; send at most 4096"), (narrow, "90×10 pixels")):
        with pytest.raises(ValueError, match=said):
            sent_image(coded(image), "mask")
    with pytest.raises(ValueError, match="image is no image"):
        sent_image(coded(GIVEN, "BMP"), "image")
    noise = Image.effect_noise((64, 64), 50)
    cut = base64.b64encode(base64.b64decode(coded(noise))[:-2000]).decode()
    with pytest.raises(ValueError, match="image is damaged"):
        sent_image(cut, "image")


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
    batcher = Batcher(batch_size=4, queue_length=9, patience=0, metrics=Metrics())
    recipe = pipe.recipe(PROMPT, steps=1)
    first = batcher.submit(gate, recipe)
    while not first.running():
        pass
    second, third = batcher.submit(gate, recipe), batcher.submit(gate, recipe)
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
