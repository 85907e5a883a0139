"""Levels, rescaled guidance, a weaker run and a region on the command line; each is in the recipe, and found again."""

import json
from pathlib import Path

import pytest
from PIL import Image

from micro_diffusion import cli
from micro_diffusion.checkpoint import load_run, save_weights, write_config
from micro_diffusion.generation.samplers import find_levels
from micro_diffusion.sampling.noise_levels import TableSteps
from tests.run_folder import CONFIG, make_run, random_backbone

PROMPT = "a large red circle on a white background"
RED = (200, 30, 30)


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A current folder with a run, another of the same kind, one that was trained on known regions, and an image."""
    monkeypatch.chdir(tmp_path)
    make_run(Path("trained_models/first"), raw=2, ema=1)
    make_run(Path("trained_models/early"), ema=3)
    wide = {**CONFIG["backbone"], "image_channels": 4}
    conditioner = {"_target_": "micro_diffusion.diffusion.known_region.KnownRegion"}
    write_config("trained_models/fills", {**CONFIG, "backbone": wide, "image_conditioner": conditioner})
    save_weights("trained_models/fills", random_backbone(4, image_channels=4).state_dict(), "ema")
    Image.new("RGB", (16, 16), RED).save("image.png")
    mask = Image.new("L", (16, 16))
    mask.paste(255, (8, 0, 16, 16))
    mask.save("mask.png")


def generate(*arguments: str, run: str = "first", out: str = "out.png") -> bytes:
    assert cli.main(["generate", run, PROMPT, *arguments, "--out", out]) == 0
    return Image.open(out).tobytes()


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert cli.main(list(arguments)) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.err.splitlines()[-1]


IMAGE = ["--image", "image.png"]
OPTIONS = [
    ("first", ["--levels", "exponential"], {"levels": "exponential"}),
    ("first", ["--levels", "linear_time", "--sampler", "euler", "--steps", "4"], {"levels": "linear_time"}),
    ("first", ["--guidance-rescale", "0.7"], {"guidance_rescale": 0.7}),
    ("first", ["--weaker", "early"], {"weaker": "early"}),
    ("first", [*IMAGE, "--region", "right"], {"region": "right"}),
    ("fills", [*IMAGE, "--region", "top"], {"region": "top"}),
]


@pytest.mark.parametrize(("run", "options", "said"), OPTIONS)
def test_an_option_changes_the_image_and_its_recipe_makes_it_again(run, options, said, capsys):
    without = [*IMAGE, "--region", "bottom"] if "--region" in options else []
    assert generate(*without, run=run) != generate(*options, run=run, out="made.png")
    assert said.items() <= json.loads(Image.open("made.png").text["micro_diffusion"]).items()
    capsys.readouterr()
    assert cli.main(["show", "made.png", "--again"]) == 0
    assert capsys.readouterr().out == "made-again.png: equal to made.png\n"


@pytest.mark.parametrize("run", ["first", "fills"])
def test_a_region_is_the_mask_of_that_half(run):
    made = generate(*IMAGE, "--region", "right", run=run)
    assert made == generate(*IMAGE, "--mask", "mask.png", run=run, out="mask-made.png")
    image = Image.open("out.png")
    assert image.crop((0, 0, 8, 16)).getcolors() == [(128, RED)]
    assert len(image.crop((8, 0, 16, 16)).getcolors()) > 50


def test_the_default_levels_by_their_name_change_nothing():
    assert generate() == generate("--levels", "karras", out="karras.png")


def test_levels_take_the_schedule_of_the_runs_objective():
    table = {"_target_": "micro_diffusion.diffusion.schedule.BetaTable", "kind": "sigmoid"}
    run = load_run("trained_models/first")
    run.config["objective"] = {"levels": {"schedule": table}}
    levels = find_levels("table_steps", run)
    assert isinstance(levels, TableSteps) and levels.table.kind == "sigmoid"


def test_a_weaker_run_of_other_weights_is_noticed(capsys):
    generate("--weaker", "early")
    save_weights("trained_models/early", random_backbone(7).state_dict(), "ema")
    assert cli.main(["show", "out.png", "--again", "--out", "again.png"]) == 0
    said = capsys.readouterr()
    assert "the ema weights of trained_models/early are not those of the recipe" in said.err
    assert "again.png: differs by up to " in said.out


def test_an_evaluation_takes_them_and_says_so():
    options = ["--levels", "exponential", "--guidance-rescale", "0.5", "--weaker", "early", "--steps", "1"]
    assert cli.main(["evaluate", "first", "--count", "1", "--out", "scores.json", *options]) == 0
    expected = {"levels": "exponential", "guidance_rescale": 0.5, "weaker": "early"}
    assert expected.items() <= json.loads(Path("scores.json").read_text())["settings"].items()


@pytest.mark.parametrize(
    ("run", "options", "problem"),
    [
        ("first", ["--levels", "magic"], "there are no levels magic in"),
        ("first", ["--levels", "table_steps"], "levels table_steps do not fit the objective of trained_models/first"),
        ("first", ["--guidance-rescale", "1.5"], "the guidance rescaling is 1.5; choose a number from 0 to 1"),
        ("first", ["--guidance-rescale", "nan"], "the guidance rescaling is nan"),
        ("first", ["--guidance-rescale", "1", "--guidance-scale", "1"], "rescaling has no effect with a guidance sc"),
        ("first", ["--weaker", "early", "--guidance-scale", "1"], "a weaker run has no effect with a guidance scale"),
        ("first", ["--weaker", "early", "--negative", "a star"], "negative prompt has no effect beside a weaker run"),
        ("first", ["--weaker", "none"], "no run folder none"),
        ("first", ["--weaker", "fills"], "the weaker run's network has image_channels 4, this one 0"),
        ("first", ["--weaker", "other"], "has the text_encoder"),
        ("first", ["--region", "right"], "a region is given without an image"),
        ("first", [*IMAGE, "--region", "up"], "--region: 'up' is not one of"),
        ("first", [*IMAGE, "--region", "top", "--mask", "mask.png"], "a mask and the region top are both given"),
        ("first", [*IMAGE, "--region", "top", "--extend", "right=8"], "needs an image and no mask or region"),
        ("fills", ["--region", "top"], "a region is given without an image"),
        ("fills", [*IMAGE], "give a region, such as left, right, top, bottom, all, or a mask"),
        ("fills", [*IMAGE, "--region", "top", "--strength", "0.5"], "no effect for a run that was trained on images"),
    ],
)
def test_what_does_not_fit_is_one_sentence(capsys, run, options, problem):
    if "other" in options:
        text = {"_target_": "micro_diffusion.text.classes.ClassEncoder", "names": [str(n) for n in range(24)]}
        write_config("trained_models/other", {**CONFIG, "text_encoder": text})
        save_weights("trained_models/other", random_backbone(1).state_dict(), "ema")
    assert problem in fails(capsys, "generate", run, PROMPT, *options)
    assert not Path("generated.png").exists()


@pytest.mark.parametrize(
    "options", [["--levels", "karras"], ["--guidance-rescale", "0.5"], ["--weaker", "early"], ["--region", "top"]]
)
def test_a_cascade_refuses_them(capsys, options):
    assert f"{options[0]} has no effect on a cascade" in fails(capsys, "generate", "first", "early", PROMPT, *options)


def test_enlarging_without_a_prompt_refuses_a_weaker_run(capsys):
    said = fails(capsys, "super-resolve", "first", "image.png", "--weaker", "early")
    assert "--weaker has no effect without a --prompt" in said
