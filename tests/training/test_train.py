"""`composer train.py` as a user runs it, on a data set of 24 pictures: six steps an epoch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from safetensors.torch import load_file

from micro_diffusion.autoencoder.kl import KLAutoencoder
from micro_diffusion.data.convert import convert
from micro_diffusion.data.engine import Processes
from micro_diffusion.data.precompute import precompute
from micro_diffusion.data.preparation import Preparation
from micro_diffusion.data.sources.shapes import Shapes
from micro_diffusion.text.tiny import TinyTextEncoder
from micro_diffusion.training.build import train
from micro_diffusion.training.resolvers import register_resolvers

ROOT = Path(__file__).resolve().parents[2]
STEPS = 18

SMALL = [
    "resolution=16",
    "backbone.dim=32",
    "backbone.depth=2",
    "backbone.mixer_dim=32",
    "backbone.mixer_depth=1",
    "train_loader.batch_size=4",
    "eval_loader.batch_size=8",
    "algorithms.ema.start=2ba",
    "callbacks.progress_lines.interval=6ba",
    "prompts.captions=[a large red circle on a white background]",
    "sampler.steps=2",
    "machine=cpu",
    f"trainer.max_duration={STEPS}ba",
    "trainer.eval_interval=9ba",
]

KILLER = '''
import os, signal
from composer import Callback

class KillAt(Callback):
    """Ends the process without warning when this many steps are done."""
    def __init__(self, step):
        self.step = step
    def batch_start(self, state, logger):
        if state.timestamp.batch.value == self.step:
            os.kill(os.getpid(), signal.SIGKILL)
'''


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    convert(
        source=Shapes(seed=0, count=24, resolution=16),
        out=folder / "images",
        preparation=Preparation(),
        engine=Processes(count=1),
    )
    precompute(
        images=folder / "images",
        out=folder / "latents",
        resolutions=[16],
        autoencoder=KLAutoencoder.load("bundled:autoencoder"),
        text_encoder=TinyTextEncoder(dim=192, max_length=18),
        batch_size=8,
        workers=0,
    )
    (folder / "killer.py").write_text(KILLER)
    return folder


def overrides(workplace: Path) -> list[str]:
    data = [f"{part}_loader.path={workplace}/latents" for part in ("train", "eval")]
    return [f"output_dir={workplace}/runs", *data, *SMALL]


def train_command(workplace: Path, *arguments: str, launcher=()) -> subprocess.CompletedProcess:
    """The whole command in its own process; `composer` as its launcher costs the start of a second one."""
    config = ["--config-path", "./configs", "--config-name", "quickstart_32_pretrain.yaml"]
    return subprocess.run(
        [*(launcher or [sys.executable]), "train.py", *config, *overrides(workplace), *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(workplace)},
        capture_output=True,
        text=True,
        timeout=600,
    )


def composer_command(workplace: Path, *arguments: str, ranks=1) -> str:
    launcher = [str(Path(sys.executable).parent / "composer"), "-n", str(ranks)]
    return succeeded(train_command(workplace, *arguments, launcher=launcher))


def succeeded(result: subprocess.CompletedProcess) -> str:
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout + result.stderr


def train_here(workplace: Path, *arguments: str, config: str = "quickstart_32_pretrain") -> None:
    """The same in this process, which has imported everything already."""
    register_resolvers()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        train(compose(config, overrides=[*overrides(workplace), *arguments]))


def losses(run: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss/train/total"] for line in lines if "loss/train/total" in line}


@pytest.fixture(scope="module")
def reference(workplace) -> Path:
    """A run from start to end."""
    composer_command(workplace, "exp_name=reference")
    return workplace / "runs" / "reference"


def test_the_run_folder_describes_itself(reference):
    names = {path.name for path in reference.iterdir()}
    assert {"config.yaml", "model.safetensors", "ema.safetensors", "complete.json", "metrics.jsonl"} <= names
    assert {"checkpoints", "samples", "tensorboard"} <= names
    text = (reference / "config.yaml").read_text()
    assert "${" not in text and OmegaConf.create(text).backbone.dim == 32
    raw, average = load_file(reference / "model.safetensors"), load_file(reference / "ema.safetensors")
    assert raw.keys() == average.keys()
    assert not any(torch.equal(raw[key], average[key]) for key in ("blocks.0.norm1.weight", "patch_embedding.weight"))
    assert not any(key.startswith(("module.", "_orig_mod.", "backbone.")) for key in raw)
    assert sorted(p.name for p in (reference / "samples").iterdir()) == ["step_0000009.png", "step_0000018.png"]
    assert json.loads((reference / "complete.json").read_text())["batches"] == STEPS
    assert sorted(losses(reference)) == list(range(STEPS))


def test_what_is_complete_is_not_trained_again(reference, workplace, caplog):
    before = (reference / "model.safetensors").stat().st_mtime_ns
    with caplog.at_level("INFO"):
        train_here(workplace, "exp_name=reference")
    assert "complete already; nothing to do" in caplog.text
    assert (reference / "model.safetensors").stat().st_mtime_ns == before


def test_a_killed_run_goes_on_as_if_nothing_had_happened(reference, workplace):
    """Killed within an epoch, after the checkpoint between two epochs, and after one at the last step of an epoch."""
    run = workplace / "runs" / "interrupted"
    kill = ["+callbacks.kill._target_=killer.KillAt"]
    for interval, step in (("4ba", 5), ("1ep", 8), ("6ba", 14)):
        result = train_command(
            workplace,
            "exp_name=interrupted",
            f"trainer.save_interval={interval}",
            *kill,
            f"+callbacks.kill.step={step}",
        )
        assert result.returncode != 0 and not (run / "complete.json").exists(), result.stderr[-3000:]
        assert max(losses(run)) == step - 1
    output = succeeded(train_command(workplace, "exp_name=interrupted"))
    assert "resumes at step 12" in output
    assert losses(run) == losses(reference)
    for file in ("model.safetensors", "ema.safetensors"):
        resumed, whole = load_file(run / file), load_file(reference / file)
        assert [key for key in whole if not torch.equal(resumed[key], whole[key])] == []


def test_the_next_stage_starts_from_the_average(reference, workplace, caplog):
    with caplog.at_level("INFO"):
        train_here(
            workplace,
            "exp_name=next",
            f"init_from={reference}",
            "optimizer.lr=0.0",
            "trainer.max_duration=3ba",
            config="quickstart_32_finetune",
        )
    assert f"starts from the averaged (EMA) weights of {reference}: " in caplog.text
    average = load_file(reference / "ema.safetensors")
    result = load_file(workplace / "runs" / "next" / "model.safetensors")
    assert [key for key in average if not torch.equal(average[key], result[key])] == []


def test_another_configuration_is_refused(reference, workplace):
    with pytest.raises(
        ValueError,
        match=r"holds a run of another configuration, which differs in seed=5 \(was 18\), .*; choose another",
    ):
        train_here(workplace, "exp_name=reference", "seed=5")


def test_latents_of_another_encoder_are_refused(workplace):
    with pytest.raises(
        ValueError, match="another text_encoder made the data than the config has: max_length 18 instead of 20"
    ):
        train_here(workplace, "exp_name=other", "text_encoder.max_length=20")


@pytest.mark.slow
def test_two_ranks_write_one_run_folder(workplace):
    composer_command(workplace, "exp_name=two", "trainer.max_duration=4ba", ranks=2)
    run = workplace / "runs" / "two"
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert sorted(losses(run)) == [0, 1, 2, 3] and len(lines) == len(set(lines))
    assert len(list((run / "tensorboard").iterdir())) == 1


@pytest.mark.slow
def test_a_compiled_network_learns_the_same_and_is_evaluated(workplace, reference):
    succeeded(train_command(workplace, "exp_name=compiled", "trainer.compile_config={backend: aot_eager}"))
    run = workplace / "runs" / "compiled"
    assert losses(run) == pytest.approx(losses(reference), rel=0.05)
    assert "metrics/eval/loss" in (run / "metrics.jsonl").read_text()
