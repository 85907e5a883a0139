"""What the page makes of its fields, and how it follows images while they are generated."""

import base64
import io
import sys
import threading
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from micro_diffusion import Pipeline, cli
from micro_diffusion.sampling.start import Between
from micro_diffusion.serving.following import followed
from micro_diffusion.serving.form import IMAGE, MASK, WAY, Form
from micro_diffusion.serving.painting import painted, to_paint_on
from tests.run_folder import make_run

PROMPT = "a large red circle on a white background"


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return Pipeline.from_run(make_run(tmp_path_factory.mktemp("runs") / "first"), device="cpu", precision="fp32")


def a_painting(box: tuple[int, int, int, int]) -> str:
    layer, file = Image.new("RGBA", (512, 256)), io.BytesIO()
    ImageDraw.Draw(layer).rectangle(box, fill="#ff00c8")
    layer.save(file, "PNG")
    return "mask:data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def test_the_recipe_is_that_of_the_fields(pipe):
    form = Form(
        prompt=PROMPT, negative_prompt="a cat", seed=" 7 ", count=2, steps=2, guidance_scale=3, width=32, height=16
    )
    recipe, given = form.recipe(pipe)
    assert recipe == pipe.recipe(
        PROMPT, negative_prompt="a cat", seed=7, count=2, steps=2, guidance_scale=3, resolution=(16, 32)
    )
    assert given == {}
    first, second = (Form(prompt=PROMPT).recipe(pipe)[0].seeds for _ in range(2))
    assert first != second


def test_a_way_goes_from_prompt_and_seed_to_others(pipe):
    recipe, _ = Form(start=WAY, prompt="a", to_prompt="b", seed="1", to_seed="2", count=3).recipe(pipe)
    assert recipe.prompts == ("a", Between("a", "b", 0.5), "b")
    assert recipe.seeds == ((1, 0), Between((1, 0), (2, 0), 0.5), (2, 0))
    with pytest.raises(ValueError, match="the way ends where it begins"):
        Form(start=WAY, prompt="a", count=3).recipe(pipe)


def test_an_image_is_changed_where_somebody_paints(pipe):
    image = Image.new("RGB", (32, 16), "teal")
    form = Form(start=MASK, prompt=PROMPT, seed="1", steps=2, image=image, painting=a_painting((256, 0, 511, 255)))
    recipe, given = form.recipe(pipe)
    assert recipe.strength is None
    assert given["mask"].crop((0, 0, 16, 16)).getextrema() == (0, 0)
    assert given["mask"].crop((16, 0, 32, 16)).getextrema() == (255, 255)
    (made,) = pipe.make(recipe, **given)
    assert made.size == (16, 16) and made.getpixel((0, 0)) == image.getpixel((0, 0)) != made.getpixel((15, 15))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"seed": "x"}, "the seed 'x' is no whole number"),
        ({"start": IMAGE}, "there is no image to start from"),
        ({"start": MASK, "image": Image.new("RGB", (8, 8)), "painting": "data:"}, "nothing is painted"),
        (
            {"start": MASK, "image": Image.new("RGB", (8, 8)), "painting": "mask:data:image/png;base64,AAAA"},
            "cannot be read",
        ),
    ],
)
def test_what_is_missing_is_said(pipe, fields, said):
    with pytest.raises(ValueError, match=said):
        Form(prompt=PROMPT, **fields).recipe(pipe)


def test_images_are_small_for_the_browser():
    text = to_paint_on(Image.new("RGB", (2000, 1000)))
    small = Image.open(io.BytesIO(base64.b64decode(text.removeprefix("data:image/png;base64,"))))
    assert small.size == (512, 256) and to_paint_on(None) == ""
    file = io.BytesIO()
    Image.new("RGBA", (513, 1)).save(file, "PNG")
    with pytest.raises(ValueError, match="at most 512"):
        painted("mask:data:image/png;base64," + base64.b64encode(file.getvalue()).decode(), (8, 8))


def test_images_are_followed_to_their_end(pipe):
    recipe = pipe.recipe(PROMPT, seed=1, steps=4)
    *before, (said, images) = followed(lambda told: pipe.make(recipe, on_preview=told), seconds=0)
    assert before[0][0] == "step 1 of 4" and before[-1][0] == "step 4 of 4"
    assert said == "" and images[0].tobytes() == pipe(PROMPT, seed=1, steps=4)[0].tobytes()
    with pytest.raises(ValueError, match="resolution|size|pixels"):
        list(followed(lambda told: pipe.make(pipe.recipe(PROMPT, resolution=7), on_preview=told)))


def test_images_nobody_waits_for_are_given_up(pipe):
    ended, calls = threading.Event(), []

    def make(told):
        try:
            return pipe.make(pipe.recipe(PROMPT, steps=5000), on_preview=lambda one: (calls.append(one), told(one)))
        finally:
            ended.set()

    following = followed(make, seconds=0)
    next(following)
    following.close()
    assert ended.wait(30) and len(calls) < 5000


def test_others_are_let_in_with_a_token_alone(monkeypatch, capsys):
    monkeypatch.delenv("MICRO_DIFFUSION_TOKEN", raising=False)
    assert cli.main(["demo", "demo", "--host", "0.0.0.0"]) == 2
    assert "others can reach 0.0.0.0, but there is no token" in capsys.readouterr().err


def test_without_gradio_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "micro_diffusion.serving.page", raising=False)
    assert cli.main(["demo", str(Path("demo"))]) == 2
    assert "pip install 'micro_diffusion[demo]'" in capsys.readouterr().err
