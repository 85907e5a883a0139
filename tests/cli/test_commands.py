"""The command line, with a small run folder of random weights: what it draws, and what it says to bad input."""

import json
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from micro_diffusion import cli
from micro_diffusion.autoencoder.saved import load_autoencoder
from micro_diffusion.checkpoint import save_weights
from micro_diffusion.cli.entry import program
from micro_diffusion.machine.precision import computes_in_bf16
from micro_diffusion.sampling.pipeline import Pipeline
from tests.run_folder import CONFIG, make_run, random_backbone
from tests.test_released_weights import small_release

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "a large red circle on a white background"


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder with one trained run."""
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "trained_models" / "first", raw=2, ema=1)
    return tmp_path


def run(*arguments: str) -> int:
    return cli.main([str(argument) for argument in arguments])


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one sentence on stderr of a command that must fail with status 2."""
    capsys.readouterr()
    status = run(*arguments)
    captured = capsys.readouterr()
    assert status == 2
    assert "Traceback" not in captured.err
    assert captured.out == ""
    return captured.err.splitlines()[-1]


def pixels(path: str) -> bytes:
    return Image.open(path).tobytes()


def test_one_prompt_gives_a_plain_image_that_says_what_it_is(capsys: pytest.CaptureFixture[str]):
    assert run("generate", "trained_models/first", PROMPT, "--seed", "0", "--out", "new/out.png") == 0
    image = Image.open("new/out.png")
    assert image.size == (16, 16)
    description = json.loads(image.text["micro_diffusion"])
    assert len(description.pop("digest")) == 16
    assert description == {
        "run": "trained_models/first",
        "weights": "ema",
        "prompts": [PROMPT],
        "seeds": [[0, 0]],
        "sampler_class": "HeunSampler",
        "guidance_scale": 2.0,
        "steps": 3,
        "resolution": [16, 16],
        "precision": "bf16" if computes_in_bf16("cpu") else "fp32",
        "strip": False,
    }
    assert capsys.readouterr().out == "new/out.png: 1 image, ema weights of trained_models/first\n"


def test_a_seed_gives_the_same_bytes_and_another_seed_another_image():
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        assert run("generate", "first", PROMPT, "--seed", seed, "--out", f"{name}.png") == 0
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    assert pixels("a.png") != pixels("c.png")


def test_several_images_make_a_grid_or_numbered_files():
    prompts = [PROMPT, "../../a\nstar", "/etc/x"]
    assert run("generate", "first", *prompts, "--out", "grid.png") == 0
    assert Image.open("grid.png").width > 3 * 100
    assert run("generate", "first", *prompts, "--count", "2", "--out", "folder") == 0
    assert sorted(path.name for path in Path("folder").iterdir()) == [f"000{i}.png" for i in range(6)] + ["prompts.txt"]
    lines = Path("folder/prompts.txt").read_text().splitlines()
    assert lines[0] == f"0000.png\t{PROMPT}"
    assert lines[2] == "0002.png\t../../a star"
    assert run("generate", "first", PROMPT, "--out", "alone.png") == 0
    assert pixels("folder/0000.png") == pixels("alone.png")
    assert pixels("folder/0000.png") != pixels("folder/0001.png")


def test_images_do_not_depend_on_the_batch_size():
    run("generate", "first", *"abcde", "--out", "together", "--batch-size", "5")
    run("generate", "first", *"abcde", "--out", "two", "--batch-size", "2")
    for index in range(5):
        pair = [torch.tensor(list(pixels(f"{folder}/000{index}.png"))) for folder in ("together", "two")]
        assert (pair[0] - pair[1]).abs().max() <= 1


def test_options_reach_the_drawing():
    images = set()
    other = "fp32" if computes_in_bf16("cpu") else "bf16"
    options = [
        (),
        ("--steps", 5),
        ("--guidance-scale", 0),
        ("--weights", "raw"),
        ("--precision", other),
        ("--resolution", "32x16"),
        ("--steps", 3, "--guidance-interval", 0.001, 1.0),
    ]
    for index, option in enumerate(options):
        assert run("generate", "first", PROMPT, "--out", f"{index}.png", *option) == 0
        images.add(pixels(f"{index}.png"))
    assert len(images) == len(options)
    assert Image.open("5.png").size == (16, 32)


@pytest.mark.slow
def test_a_compiled_network_draws_the_same():
    for name, options in {"plain": [], "compiled": ["--compile"]}.items():
        assert run("generate", "first", "a red circle", "--precision", "fp32", "--out", f"{name}.png", *options) == 0
    plain, compiled = (np.asarray(Image.open(f"{name}.png"), dtype=int) for name in ("plain", "compiled"))
    assert abs(plain - compiled).max() <= 1


def test_positions_that_were_never_learned_are_mentioned(capsys: pytest.CaptureFixture[str]):
    assert run("generate", "first", PROMPT, "--resolution", "32x16", "--out", "a.png") == 0
    assert capsys.readouterr().err == (
        "micro-diffusion: warning: the network was trained on latents of 16×16 cells; for 32×16 its positions are "
        "stretched, which it has not learned\n"
    )


def test_prompts_may_follow_options_and_default_to_the_runs():
    assert run("generate", "first", "--seed", "0", PROMPT, "--out", "a.png") == 0
    assert json.loads(Image.open("a.png").text["micro_diffusion"])["prompts"] == [PROMPT]
    assert run("generate", "first", "--out", "b.png") == 0
    assert json.loads(Image.open("b.png").text["micro_diffusion"])["prompts"] == CONFIG["prompts"]["captions"]


def test_without_out_no_file_is_replaced():
    for _ in range(3):
        assert run("generate", "first", PROMPT) == 0
    assert sorted(path.name for path in Path().glob("*.png")) == ["generated-1.png", "generated-2.png", "generated.png"]


def test_raw_weights_serve_where_there_is_no_average(capsys: pytest.CaptureFixture[str]):
    make_run(Path("trained_models/second"), raw=1, ema=None)
    assert run("generate", "second", PROMPT, "--out", "a.png") == 0
    assert "raw weights" in capsys.readouterr().out
    assert "has no ema weights" in fails(capsys, "generate", "second", PROMPT, "--weights", "ema")


def test_a_prompt_that_is_too_long_says_once_what_was_cut(capsys: pytest.CaptureFixture[str]):
    prompt = " ".join(["word"] * 15 + ["these", "are", "lost"])
    assert run("generate", "first", prompt, "--count", "20", "--out", "a.png") == 0
    warning = capsys.readouterr().err.splitlines()
    assert len(warning) == 1
    assert warning[0].startswith("micro-diffusion: warning: ")
    assert "'these are lost'" in warning[0]


def test_an_unknown_run_lists_those_that_exist(capsys: pytest.CaptureFixture[str]):
    make_run(Path("elsewhere/other"))
    assert "no run folder none; there are trained_models: first" in fails(capsys, "generate", "none", PROMPT)
    assert "elsewhere: other; trained_models: first" in fails(capsys, "generate", "elsewhere/none", PROMPT)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--steps", "0"], "0 is too few"),
        (["--count", "0"], "0 is too few"),
        (["--steps", "many"], "--steps: 'many' is no whole number"),
        (["--resolution", "18"], "resolution 18 is not divisible by 4 .* use 16 or 20"),
        (["--resolution", "16x16x16"], "has 3 sides"),
        (["--sede", "1"], "unknown option --sede; did you mean --seed"),
        (["--out", "a.gif"], "'.gif', which is no image; use one of .png"),
        (["--out", "trained_models/first/config.yaml/a.png"], "cannot be a folder"),
        (["--device", "cuda:99"], "device 'cuda:99' cannot be used"),
        (["--device", "toaster"], "device 'toaster' cannot be used"),
        (["--weights", "best"], "--weights: 'best' is not one of 'ema', 'raw'"),
    ],
)
def test_bad_options(capsys: pytest.CaptureFixture[str], options: list[str], sentence: str):
    error = fails(capsys, "generate", "first", PROMPT, *options)
    assert re.search(sentence, error), error
    assert list(Path().glob("*.png")) == []


def test_unfinished_and_wrong_runs(capsys: pytest.CaptureFixture[str]):
    make_run(Path("trained_models/unfinished"), ema=None)
    assert "holds no weights" in fails(capsys, "generate", "unfinished", PROMPT)
    Path("trained_models/empty").mkdir()
    assert "holds no config.yaml" in fails(capsys, "generate", "empty", PROMPT)
    state = random_backbone(1).state_dict()
    del state["final.bias"]
    save_weights("trained_models/first", state, "ema")
    assert "1 missing (final.bias)" in fails(capsys, "generate", "first", PROMPT)


def test_out_of_memory_says_what_to_lower(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    def exhausted(*_, **__):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate …")

    monkeypatch.setattr(Pipeline, "generate", exhausted)
    assert "out of memory; lower --batch-size" in fails(capsys, "generate", "first", PROMPT)


def test_evaluation_writes_scores_and_a_grid(capsys: pytest.CaptureFixture[str]):
    assert run("evaluate", "first", "--count", "3", "--steps", "1", "--out", "new/metrics.json") == 0
    report = json.loads(Path("new/metrics.json").read_text())
    assert report["composition"].keys() == {"single", "two", "held_out"}
    assert all(0 <= value <= 1 for value in report["composition"].values())
    assert report["parameters"] == sum(parameter.numel() for parameter in random_backbone(1).parameters())
    expected = {"run": "first", "weights": "ema", "sampler": "HeunSampler", "guidance_scale": 2.0, "steps": 1}
    assert {**expected, "seed": 0}.items() <= report["settings"].items()
    assert report["seconds"].keys() == {"generate", "judge"}
    assert Image.open("new/metrics.png").width > 8 * 100
    assert "single 0.000" in capsys.readouterr().out
    assert "cannot be chosen with seed -1" in fails(capsys, "evaluate", "first", "--seed", "-1", "--out", "a.json")


def test_another_sampler_takes_the_place_of_the_runs_own(capsys: pytest.CaptureFixture[str]):
    other = ("--sampler", "dpmpp_2m")
    assert run("generate", "first", PROMPT, "--out", "heun.png") == 0
    assert run("generate", "first", PROMPT, "--out", "other.png", "--steps", "3", *other) == 0
    assert pixels("heun.png") != pixels("other.png")
    assert run("evaluate", "first", "--count", "1", "--out", "a.json", *other) == 0
    settings = json.loads(Path("a.json").read_text())["settings"]
    assert (settings["sampler"], settings["steps"]) == ("DPMpp2MSampler", 15)
    error = fails(capsys, "generate", "first", PROMPT, "--sampler", "magic")
    assert "there is no sampler magic in" in error and "choose one of dpmpp_2m, " in error
    error = fails(capsys, "generate", "first", PROMPT, "--sampler", "heun", "--configs", "elsewhere")
    assert error.endswith("there is no sampler heun in elsewhere/sampler; give --configs the folder of the stages")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--configs", "configs"], "--configs configs has no effect without --sampler"),
        (["--guidance-scale", "1", "--guidance-interval", "0.1", "2"], "a guidance interval has no effect with a guid"),
        (["--guidance-interval", "1000", "2000"], "interval 1000 to 2000 holds none of the noise levels"),
        (["--guidance-scale", "inf"], "the guidance scale is inf; choose one from -1000 to 1000"),
    ],
)
def test_options_without_effect_are_refused(capsys: pytest.CaptureFixture[str], options: list[str], problem: str):
    assert problem in fails(capsys, "generate", "first", PROMPT, *options)


def test_released_weights_become_a_run(capsys: pytest.CaptureFixture[str]):
    backbone, state = small_release()
    torch.save(state, "released.pt")
    assert run("import-microdit", "released.pt", "trained_models/released") == 0
    assert f"{sum(p.numel() for p in backbone.parameters()):,} parameters" in capsys.readouterr().out
    assert "is a run folder already" in fails(capsys, "import-microdit", "released.pt", "trained_models/released")
    assert "no weight file other.pt" in fails(capsys, "import-microdit", "other.pt", "new")


def test_an_exported_run_is_half_as_large(capsys: pytest.CaptureFixture[str]):
    assert run("export", "first", "half", "--dtype", "float16") == 0
    sizes = [Path(folder, "ema.safetensors").stat().st_size for folder in ("trained_models/first", "half")]
    assert sizes[1] < 0.7 * sizes[0]
    assert run("generate", "half", PROMPT, "--out", "a.png") == 0
    assert "is a run folder already" in fails(capsys, "export", "first", "half")


def test_the_command_runs_in_a_process_of_its_own():
    command = [sys.executable, "-m", "micro_diffusion.cli", "generate", "first", PROMPT, "--out"]
    for name in ("a.png", "b.png"):
        result = subprocess.run([*command, name], capture_output=True, text=True)
        assert (result.returncode, result.stderr) == (0, "")
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


COMMANDS = [[], *([name] for name in program.commands), ["data", "describe"]]
HELP_WITHOUT_TORCH = """
import sys
from micro_diffusion import cli
for line in sys.stdin:
    cli.main(line.split())
heavy = {"torch", "numpy", "PIL", "scipy", "hydra", "omegaconf", "pydantic"} & set(sys.modules)
assert not heavy, f"{heavy} are imported"
"""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str], command: list[str]):
    assert run(*command, "--help") == 0
    assert f"Usage: {' '.join(['micro-diffusion', *command])} " in capsys.readouterr().out


def test_help_and_wrong_arguments_answer_before_torch_is_imported():
    asked = [[*command, "--help"] for command in COMMANDS] + [["generate"], ["generate", "demo", "--sede"], ["nothing"]]
    asked += [["completion", "bash"], []]
    lines = "\n".join(map(" ".join, asked))
    command = [sys.executable, "-c", HELP_WITHOUT_TORCH]
    result = subprocess.run(command, input=lines, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert [text.split("error: ")[1].split(";")[0] for text in result.stderr.splitlines() if "error" in text] == [
        "Missing argument 'RUN'",
        "unknown option --sede",
        "No such command 'nothing'",
    ]


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("micro-diffusion gen", {"generate"}),
        ("micro-diffusion generate fi", {"first"}),
        ("micro-diffusion generate de", {"demo"}),
        ("micro-diffusion generate demo --guid", {"--guidance-scale", "--guidance-interval", "--guidance-rescale"}),
        ("micro-diffusion generate demo --sampler he", {"heun"}),
    ],
)
def test_a_shell_completes(words: str, completed: set[str], capsys, monkeypatch):
    """As bash asks: with the words so far and the place of the last in its environment."""
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    monkeypatch.setenv("_MICRO_DIFFUSION_COMPLETE", "bash_complete")
    with suppress(SystemExit):
        run()
    assert {line.split(",")[1] for line in capsys.readouterr().out.splitlines()} == completed


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed(shell: str, capsys: pytest.CaptureFixture[str]):
    assert run("completion", shell) == 0
    script = capsys.readouterr().out
    assert f"_MICRO_DIFFUSION_COMPLETE={shell}_complete" in script
    if interpreter := shutil.which(shell):
        subprocess.run([interpreter, "-n"], input=script, text=True, check=True)


def test_the_public_latent_diffusion_vae_becomes_a_folder(capsys: pytest.CaptureFixture[str]):
    golden = load_file(ROOT / "tests" / "fixtures" / "ldm_vae_small.safetensors")
    weights = {key.removeprefix("weights."): value for key, value in golden.items() if key.startswith("weights.")}
    torch.save(weights, "vae.pt")
    assert run("import-ldm-vae", "vae.pt", "autoencoders/ldm") == 0
    assert "autoencoder.path=autoencoders/ldm" in capsys.readouterr().out
    assert load_autoencoder("autoencoders/ldm").name.startswith("ldm-vae-f4-c4-")
    assert "autoencoders/ldm is there already" in fails(capsys, "import-ldm-vae", "vae.pt", "autoencoders/ldm")
    assert "no file other.pt" in fails(capsys, "import-ldm-vae", "other.pt", "new")


def test_a_part_that_cannot_be_made_is_told_in_a_sentence(capsys):
    assert run("plan", "--configs", ROOT / "configs", "quickstart_64_pretrain", "+auxiliary=repa") == 2
    said = capsys.readouterr().err
    assert "there is no run folder trained_models/representation" in said and "Traceback" not in said
