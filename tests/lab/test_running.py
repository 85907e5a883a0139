"""Runs that are there are not run again, and failed ones are recorded."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from micro_diffusion.lab.experiments import Experiment
from micro_diffusion.lab.planning import Plan, planned
from micro_diffusion.lab.results import curve_of, read
from micro_diffusion.lab.running import commit, run_all
from micro_diffusion.lab.scoring import score
from micro_diffusion.performance.cost import Cost
from tests.small_training import make_latents

ROOT = Path(__file__).resolve().parents[2]


def plan(folder: Path, name: str = "base", seed: int = 1) -> Plan:
    content = {
        "output_dir": str(folder),
        "exp_name": f"{name}/{seed}",
        "trainer": {"max_duration": "4ba"},
        "train_loader": {"batch_size": 8},
    }
    experiment = Experiment(name, None if name == "base" else "base", {})
    return Plan(experiment, seed, 1e6, OmegaConf.create(content), Cost(30.0, 10.0), f"{name}{seed}")


class Trainer:
    """Writes what a training leaves, unless it is of an experiment that fails."""

    def __init__(self, fails: str = ""):
        self.fails, self.trained = fails, []

    def __call__(self, plan: Plan) -> int:
        self.trained.append(plan.key)
        plan.folder.mkdir(parents=True, exist_ok=True)
        (plan.folder / "log").write_text("begin\nError: no room\n")
        if plan.experiment.name == self.fails:
            return 1
        line = {"step": 4, "metrics/eval/loss": 0.5, "clock/wall": 2, "clock/processor": 1, "images/single": 0.25}
        (plan.folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        (plan.folder / "complete.json").write_text('{"parameters": 7}')
        return 0


def test_a_run_leaves_a_line_with_everything(tmp_path: Path):
    run_all([plan(tmp_path, "mask", 3)], tmp_path / "results.jsonl", train=Trainer())
    (result,) = read(tmp_path / "results.jsonl")
    assert (result.experiment, result.parent, result.seed, result.error) == ("mask", "base", 3, None)
    assert (result.steps, result.batch, result.image_flops, result.update_flops, result.parameters) == (4, 8, 30, 10, 7)
    assert (result.last.images, result.last.flops, result.last.loss) == (32, 4 * 250, 0.5)
    assert result.scores == {"single": 0.25} and result.config["trainer"] == {"max_duration": "4ba"}
    assert result.commit == commit(ROOT) and str(tmp_path) not in (tmp_path / "results.jsonl").read_text()


def test_what_is_there_is_not_run_again(tmp_path: Path):
    plans, out = (
        [plan(tmp_path, name, seed) for seed in (1, 2) for name in ("base", "mask")],
        tmp_path / "results.jsonl",
    )
    first, second, third = Trainer(fails="mask"), Trainer(), Trainer()
    run_all(plans[:3], out, train=first)
    run_all(plans, out, train=second, jobs=2)
    assert (first.trained, second.trained) == (["base1", "mask1", "base2"], ["mask2"])
    failed = next(result for result in read(out) if result.error is not None)
    assert failed.key == "mask1" and failed.error == "ended with status 1: Error: no room"
    run_all(plans, out, train=third, again=True)
    assert third.trained == ["mask1"]
    assert [result.key for result in read(out)] == ["base1", "mask1", "base2", "mask2", "mask1"]  # the failed one stays
    assert [result.key for result in read(out) if result.error is not None] == ["mask1"]


def test_a_run_of_two_commands_is_recorded_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The second finds the folder complete; when it began, the run was not in the file."""
    out, one = tmp_path / "results.jsonl", plan(tmp_path)

    def beside(made: Plan) -> int:
        run_all([made], out, train=Trainer())
        return 0

    run_all([one], out, train=beside)
    assert len(read(out)) == 1 and "another command has recorded it" in capsys.readouterr().out
    run_all([one], out, train=Trainer())
    assert "1 of 1 runs are in" in capsys.readouterr().out


@pytest.mark.parametrize("status", [-2, -15, 130, 143, 255])
def test_a_run_that_was_told_to_end_is_no_result(tmp_path: Path, status: int):
    out, worker = tmp_path / "results.jsonl", Trainer()
    run_all([plan(tmp_path)], out, train=lambda plan: status)
    assert read(out) == []
    run_all([plan(tmp_path)], out, train=worker)
    assert worker.trained == ["base1"] and len(read(out)) == 1


def test_a_signal_to_the_command_ends_its_runs(tmp_path: Path):
    """As a scheduler sends it, to one process alone."""
    command = [sys.executable, "-c", ENDLESS, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            begun = 0
            while begun < 2:
                begun += process.stdout.readline() == "begun\n"
            process.terminate()
            said = process.communicate(timeout=60)[0]
        finally:
            process.kill()
    assert said.count("told to end") == 2 and "base/3" not in said
    assert read(tmp_path / "results.jsonl") == []


ENDLESS = """
import multiprocessing, signal, sys, time
from pathlib import Path
from micro_diffusion.lab.running import run_all
from tests.lab.test_running import plan

def train(plan):
    process = multiprocessing.get_context("forkserver").Process(target=time.sleep, args=(300,))
    process.start()
    print("begun", flush=True)
    process.join()
    return process.exitcode

signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
folder = Path(sys.argv[1])
run_all([plan(folder, seed=seed) for seed in (1, 2, 3)], folder / "results.jsonl", jobs=2, train=train)
"""


def test_seeds_are_outermost_and_runs_have_their_own_folder():
    plans = planned(ROOT / "configs", ["base", "mask_075"], [4, 5], 1e12, ["output_dir=somewhere"])
    assert [(made.experiment.name, made.seed) for made in plans] == [
        ("base", 4), ("mask_075", 4), ("base", 5), ("mask_075", 5),
    ]  # fmt: skip
    assert len({made.key for made in plans}) == 4
    assert str(plans[0].folder) == f"somewhere/base/4_{plans[0].key}" and plans[0].config.seed == 4
    (elsewhere,) = planned(ROOT / "configs", ["base"], [4], 1e12, ["output_dir=elsewhere", "train_loader.path=x"])
    assert elsewhere.key == plans[0].key  # which does not depend on where it is trained
    assert {made.ground for made in (*plans, elsewhere)} == {elsewhere.ground}
    (other,) = planned(ROOT / "configs", ["mask_075"], [4], 1e12, ["backbone.rotary=false"])
    assert other.ground != elsewhere.ground


def test_overrides_that_leave_nothing_to_compare_are_refused():
    without = ["callbacks.composition=null"]
    with pytest.raises(ValueError, match="guidance_interval is the same as base; leave one of them out"):
        planned(ROOT / "configs", ["guidance_interval"], [1], 1e12, without)
    with pytest.raises(ValueError, match="steps_18 is judged by images; leave it out, or callbacks.composition=null"):
        planned(ROOT / "configs", ["steps_18"], [1], 1e12, without)


@pytest.mark.slow
def test_the_command_trains_and_goes_on(tmp_path: Path):
    make_latents(tmp_path, 32, resolution=64)
    data = [f"{part}_loader.path={tmp_path}/latents" for part in ("train", "eval")]
    options = [
        "--budget",
        "4e10",
        "--seeds",
        "1",
        "--results",
        f"{tmp_path}/results.jsonl",
        f"output_dir={tmp_path}/runs",
    ]
    settings = [*data, "train_loader.batch_size=8", "prompts.captions.count=1"]
    command = ["run", "base", "mask_075", "steps_18", *options, *settings]
    for _ in range(2):
        made = {"capture_output": True, "text": True, "env": {**os.environ, "PYTHONPATH": str(ROOT)}}
        done = subprocess.run([sys.executable, "scripts/lab.py", *command], cwd=ROOT, **made)
        assert done.returncode == 0, done.stderr
    base, masked, steps = read(tmp_path / "results.jsonl")
    assert base.error is masked.error is steps.error is None
    assert steps.training == base.key and steps.curve == base.curve and steps.scores["calls"] == 2 * 18
    assert base.last.flops == pytest.approx(4e10, rel=0.06) == masked.last.flops
    assert masked.last.images > base.last.images and 0 < base.last.loss < 1
    assert set(base.scores) == {"single", "two", "held_out"} and base.last.processor > 0
    folder = tmp_path / f"runs/base/1_{base.key}"
    score(DictConfig(OmegaConf.load(folder / "config.yaml")), tmp_path, folder)  # as they were made in training
    _, again = curve_of(tmp_path / "metrics.jsonl", batch=8, step_flops=0)
    assert base.scores.items() <= again.items()
