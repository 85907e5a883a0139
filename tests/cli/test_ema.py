"""`micro-diffusion ema`: averages of other lengths, the best of them, and where it goes."""

import shutil
from pathlib import Path

import pytest
import torch

from micro_diffusion.checkpoint import read_config
from micro_diffusion.cli.entry import main
from micro_diffusion.files.run_folders import find_run
from micro_diffusion.files.weight_file import read_tensors, write_tensors
from micro_diffusion.training.optimizers.average_lengths import averaged, snapshots
from tests.small_training import make_latents, train_here


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A copy of the bundled run with a history of averages, which end in its weights."""
    folder, demo = tmp_path / "run", find_run("demo")
    folder.mkdir()
    shutil.copy(demo / "config.yaml", folder)
    weights = read_tensors(demo / "ema.safetensors")
    write_tensors(folder / "model.safetensors", weights)
    (folder / "averages").mkdir()
    for step in (1, 2):
        for width in (0.05, 0.1):
            shown = {name: weight * step / 2 for name, weight in weights.items() if name != "final.bias"}
            file = folder / f"averages/step_{step}_width_{width}.safetensors"
            write_tensors(file, shown, step=str(step), width=repr(width))
    return folder


def test_one_length_becomes_a_run_folder_without_a_measure(run: Path, capsys: pytest.CaptureFixture[str]):
    out = run.parent / "out"
    command = ["ema", str(run), "--measure", "none"]
    assert main([*command, "--length", "0.07", "--out", str(out)]) == 0
    made, kept = read_tensors(out / "ema.safetensors"), read_tensors(run / "model.safetensors")
    expected, apart = averaged(snapshots(run), 0.07)
    assert f"length 0.07: apart {apart:.4f}" in capsys.readouterr().out
    assert made.keys() == kept.keys() and torch.equal(made["final.bias"], kept["final.bias"])
    torch.testing.assert_close(made["final.weight"], expected["final.weight"])
    assert "backbone" in read_config(out) and not (out / "model.safetensors").exists()
    assert main([*command, "--length", "0.05", "--replace"]) == 0
    replaced = read_tensors(run / "ema.safetensors")["final.weight"]
    torch.testing.assert_close(replaced, kept["final.weight"].float(), atol=1e-5, rtol=1e-4)
    capsys.readouterr()
    assert main([*command, "--length", "0.07", "--out", str(out)]) == 2
    assert "is a run folder already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--length", "0.3"], "give lengths above 0 and below 0.289"),
        (["--length", "0.1,0.2", "--measure", "none", "--replace"], "finds no best one of several lengths"),
        (["--length", "0.1", "--measure", "composition", "--data", "x"], "--data x has no effect"),
        (["--length", "0.1", "--out", "x", "--replace"], "two places"),
        (["--length", "0.1"], "has no eval_loader"),
    ],
)
def test_options_that_do_not_go_together_are_refused(run: Path, capsys, arguments: list[str], message: str):
    assert main(["ema", str(run), *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_loss_of_a_finished_training_is_found_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Of the average that it ends with, and the best length becomes that average."""
    make_latents(tmp_path, 16)
    train_here(tmp_path, "algorithms=ema_lengths", "exp_name=lengths", "algorithms.ema_lengths.interval=6ba")
    run = tmp_path / "runs/lengths"
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (last,) = [line for line in lines if '"metrics/eval/loss":' in line][-1:]
    assert main(["ema", str(run), "--length", "0.05,0.1,0.25", "--replace", "--device", "cpu"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("ema of the training: loss ") and said[0].split()[-1] in _rounded(last)
    losses = [float(line.split()[-1]) for line in said[1:4]]
    assert said[4] == f"best: {(0.05, 0.1, 0.25)[losses.index(min(losses))]:g}"


def _rounded(line: str) -> str:
    import json

    return f"{json.loads(line)['metrics/eval/loss']:.4f}"
