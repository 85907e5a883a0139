"""`composer train.py` on a data set of a few shapes with a very small network, for tests that train."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from subprocess import CompletedProcess

from hydra import compose, initialize_config_dir

from micro_diffusion.autoencoder.kl import KLAutoencoder
from micro_diffusion.data.prepare.convert import convert
from micro_diffusion.data.prepare.engine import Processes
from micro_diffusion.data.prepare.precompute import precompute
from micro_diffusion.data.prepare.preparation import Preparation
from micro_diffusion.data.sources.shapes import Shapes
from micro_diffusion.data.sources.source import Source
from micro_diffusion.text.tiny import TinyTextEncoder
from micro_diffusion.training.build import train
from micro_diffusion.training.config_checks.resolvers import register_resolvers
from tests.forked_process import run_script

ROOT = Path(__file__).resolve().parents[1]

CONFIG = ["--config-path", "./configs", "--config-name", "quickstart_32_pretrain.yaml"]

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
    "model.cpu_precision=fp32",  # auto measures, and may decide otherwise for each of two runs that are compared
    f"trainer.max_duration={STEPS}ba",
    "trainer.eval_interval=9ba",
]


KILLER = '''
import os, signal
from composer import Callback

class KillAt(Callback):
    """Sends the process a signal, by default the one without warning, when this many steps are done."""
    def __init__(self, step, name="SIGKILL"):
        self.step, self.number = step, signal.Signals[name]
    def batch_start(self, state, logger):
        if state.timestamp.batch.value == self.step:
            os.kill(os.getpid(), self.number)
'''


def make_latents(folder: Path, count: int, source: Source | None = None, resolution: int = 16) -> None:
    """`folder/latents`, with `count` images of these pixels; and `folder/killer.py`, whose KillAt ends a training."""
    folder.mkdir(exist_ok=True)
    (folder / "killer.py").write_text(KILLER)
    convert(
        source=source or Shapes(seed=0, count=count, resolution=resolution),
        out=folder / "images",
        preparation=Preparation(),
        engine=Processes(count=1),
    )
    precompute(
        images=folder / "images",
        out=folder / "latents",
        resolutions=[resolution],
        autoencoder=KLAutoencoder.load("bundled:autoencoder"),
        text_encoder=TinyTextEncoder(dim=192, max_length=18, window=6),
        batch_size=8,
        workers=0,
    )


def overrides(workplace: Path) -> list[str]:
    data = [f"{part}_loader.path={workplace}/latents" for part in ("train", "eval")]
    return [f"output_dir={workplace}/runs", *data, *SMALL]


def train_command(workplace: Path, *arguments: str) -> CompletedProcess[str]:
    """`python train.py` in a forked process; it finds modules in the workplace."""
    return run_script(ROOT / "train.py", *CONFIG, *overrides(workplace), *arguments, cwd=ROOT, path=[workplace])


def launched(workplace: Path, *arguments: str, ranks: int | None = None, seconds: float = 280) -> CompletedProcess[str]:
    """The same in processes of their own, which cost ten seconds each; without ranks, without `composer`."""
    launcher = [sys.executable] if ranks is None else [f"{Path(sys.executable).parent}/composer", "-n", str(ranks)]
    return subprocess.run(
        [*launcher, "train.py", *CONFIG, *overrides(workplace), *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(workplace)},
        capture_output=True,
        text=True,
        timeout=seconds,
    )


def succeeded(result: CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-30000:]
    return result.stdout + result.stderr


def train_here(workplace: Path, *arguments: str, config: str = "quickstart_32_pretrain") -> None:
    """The same in this process, which has imported everything already."""
    register_resolvers()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        train(compose(config, overrides=[*overrides(workplace), *arguments]))


def losses(run: Path) -> dict[int, float]:
    """The loss of every step, which is written once."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = [(line["step"], float(line["loss/train/total"])) for line in lines if "loss/train/total" in line]
    assert len(found) == len(dict(found)), f"losses of steps that are there twice: {found}"
    return dict(found)
