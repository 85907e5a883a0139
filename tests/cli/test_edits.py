"""What `generate` does beside prompts: seeds, negative prompts, images to start from, frames; and `show`."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from micro_diffusion import cli
from micro_diffusion.checkpoint import save_weights
from tests.run_folder import make_run, random_backbone

PROMPT = "a large red circle on a white background"
OTHER = "a small blue star on a black background"


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder with a run, an image, and a mask of its right half."""
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "trained_models" / "first")
    Image.new("RGB", (32, 32), (200, 30, 30)).save("image.png")
    mask = Image.new("L", (32, 32))
    mask.paste(255, (16, 0, 32, 32))
    mask.save("mask.png")
    return tmp_path


def generate(*arguments: object, out: str = "out.png") -> bytes:
    assert cli.main(["generate", "first", *map(str, arguments), "--out", out]) == 0
    return Image.open(out).tobytes() if Path(out).is_file() else b""


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert cli.main([str(argument) for argument in arguments]) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_every_seed_gives_every_prompt_the_image_that_it_gives_alone():
    generate(PROMPT, OTHER, "--seed", 0, "--seed", -5, out="many")
    assert len(list(Path("many").glob("*.png"))) == 4
    for index, (prompt, seed) in enumerate([(PROMPT, 0), (PROMPT, -5), (OTHER, 0), (OTHER, -5)]):
        assert Image.open(f"many/000{index}.png").tobytes() == generate(prompt, "--seed", seed)


def test_prompts_come_from_a_file_too(capsys):
    Path("prompts.txt").write_text(f"{PROMPT}\n\n{OTHER}\n", encoding="utf-8")
    generate("--prompts-file", "prompts.txt", out="folder")
    assert Path("folder/prompts.txt").read_text().splitlines() == [f"0000.png\t{PROMPT}", f"0001.png\t{OTHER}"]
    Path("empty.txt").touch()
    assert "empty.txt is empty; write one prompt" in fails(
        capsys, "generate", "first", "--prompts-file", "empty.txt", "--out", "a.png"
    )


def test_a_negative_prompt_changes_the_image(capsys):
    assert generate(PROMPT) != generate(PROMPT, "--negative", OTHER)
    command = ["generate", "first", PROMPT, "--negative", OTHER, "--guidance-scale", 1]
    assert "a negative prompt has no effect with a guidance scale of 1" in fails(capsys, *command)


def test_the_strength_decides_how_much_of_an_image_stays():
    """A random network denoises to noise, so what is left of the image shrinks with the strength."""
    start = ("--image", "image.png", "--steps", 10)
    images = [generate(PROMPT, *start, "--strength", strength) for strength in (0.1, 0.5, 1)]
    distances = [sum(abs(a - b) for a, b in zip(image, bytes((200, 30, 30)) * 256, strict=True)) for image in images]
    assert distances[0] < distances[1] < distances[2]


def test_a_mask_keeps_what_is_black_in_it():
    generate(PROMPT, "--image", "image.png", "--mask", "mask.png")
    image = Image.open("out.png")
    left, right = image.crop((0, 0, 8, 16)), image.crop((8, 0, 16, 16))
    assert left.getcolors() == [(128, (200, 30, 30))]
    assert len(right.getcolors()) > 50


@pytest.mark.parametrize(("side", "size"), [("right=20", (36, 16)), ("top=8", (16, 24)), ("left=40", (56, 16))])
def test_an_image_is_made_larger_on_one_side(side, size):
    generate(PROMPT, "--image", "image.png", "--extend", side)
    image = Image.open("out.png")
    assert image.size == size
    corner = {"right=20": (0, 0), "top=8": (0, 8), "left=40": (40, 0)}[side]
    kept = image.crop((*corner, corner[0] + 16, corner[1] + 16))
    assert kept.getcolors() == [(256, (200, 30, 30))]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--image", "image.png"], "without strength and mask; give a strength"),
        (["--mask", "mask.png"], "a mask is given without an image"),
        (["--strength", "0.5"], "strength=0.5 has no effect without an image"),
        (["--image", "image.png", "--strength", "0"], "the strength is 0.0; choose a number above 0"),
        (["--image", "image.png", "--strength", "nan"], "the strength is nan"),
        (["--image", "image.png", "--strength", "1", "--resamplings", "2"], "resamplings=2 has no effect without"),
        (["--image", "image.png", "--extend", "up=3"], "the extension is 'up=3'; give a side"),
        (["--image", "image.png", "--mask", "small.png"], "the mask has 8×8 pixels, but the image 32×32"),
        (["--image", "image.png", "--mask", "black.png"], "nothing in the mask is white"),
        (["--image", "text.png", "--strength", "1"], "text.png is no image that can be read"),
        (["--image", "none.png", "--strength", "1"], "there is no image none.png; give a PNG"),
        (["--frames", "3"], "3 frames between 1 prompts and 1 seeds make no way"),
        (["--out", "a.gif"], "'.gif', which is no image"),
    ],
)
def test_what_does_not_fit_is_one_sentence(capsys, options, problem):
    Image.new("L", (8, 8), 255).save("small.png")
    Image.new("L", (32, 32), 0).save("black.png")
    Path("text.png").write_text("no image")
    assert problem in fails(capsys, "generate", "first", PROMPT, *options)


def test_frames_become_a_strip_or_a_moving_image(capsys):
    generate(PROMPT, OTHER, "--frames", 3, "--seed", 0)
    strip = Image.open("out.png")
    assert strip.size == (3 * 16, 16)
    assert strip.crop((0, 0, 16, 16)).tobytes() == generate(PROMPT, "--seed", 0, out="first.png")
    assert strip.crop((32, 0, 48, 16)).tobytes() == generate(OTHER, "--seed", 0, out="last.png")
    generate(PROMPT, "--seed", 0, "--seed", 1, "--seed", 2, "--frames", 3, "--fps", 5, out="out.gif")
    moving = Image.open("out.gif")
    assert (moving.n_frames, moving.info["duration"]) == (5, 200)
    if find_spec("av") is None:
        command = ["generate", "first", PROMPT, OTHER, "--frames", 3, "--out", "a.mp4"]
        assert "a.mp4 needs the library av" in fails(capsys, *command)


EDITS = [
    [PROMPT, "--seed", "3", "--negative", OTHER, "--sampler", "dpmpp_2m", "--steps", "4"],
    [PROMPT, OTHER, "--count", "2"],
    [PROMPT, "--image", "image.png", "--mask", "mask.png"],
    [PROMPT, "--image", "image.png", "--extend", "right=12"],
    [PROMPT, OTHER, "--frames", "4"],
]


@pytest.mark.parametrize("options", EDITS)
def test_an_image_can_be_made_again_from_what_it_says(capsys, options):
    generate(*options, out="made.png")
    capsys.readouterr()
    assert cli.main(["show", "made.png", "--again"]) == 0
    assert capsys.readouterr().out == "made-again.png: equal to made.png\n"


def test_a_recipe_is_printed(capsys):
    generate(PROMPT, OTHER, "--seed", 3, "--count", "2", "--frames", "2")
    capsys.readouterr()
    assert cli.main(["show", "out.png"]) == 0
    printed = capsys.readouterr().out
    assert "resolution: 16×16\n" in printed and f"prompts: \n  {PROMPT}\n  {OTHER}\n" in printed
    generate(PROMPT, OTHER, "--frames", 3, out="out.gif")
    capsys.readouterr()
    assert cli.main(["show", "out.gif"]) == 0
    assert f"50% from {PROMPT} to {OTHER}" in capsys.readouterr().out


def test_other_weights_are_noticed(capsys):
    generate(PROMPT)
    save_weights("trained_models/first", random_backbone(7).state_dict(), "ema")
    assert cli.main(["show", "out.png", "--again", "--out", "b.png"]) == 0
    said = capsys.readouterr()
    assert "are not those of the recipe; images will differ" in said.err
    assert "b.png: differs by up to " in said.out


def test_what_says_nothing_cannot_be_shown(capsys):
    assert "image.png says nothing about how it was made" in fails(capsys, "show", "image.png")
    assert "No such file" in fails(capsys, "show", "none.png")
    Image.new("RGB", (2, 2)).save("a.gif", comment=json.dumps({"prompts": ["a"]}).encode())
    assert "a.gif does not say all that its image follows from" in fails(capsys, "show", "a.gif", "--again")
    Image.new("RGB", (2, 2)).save("b.gif", comment=b"\xff\xfe")
    assert "is no JSON" in fails(capsys, "show", "b.gif")
