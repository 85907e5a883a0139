"""`train.py --config-name train_autoencoder`, from images to a folder that the rest of the pipeline takes."""

from __future__ import annotations

import copy
import json
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from micro_diffusion.autoencoder.kl import KLAutoencoder
from micro_diffusion.data.prepare.convert import convert
from micro_diffusion.data.prepare.engine import Processes
from micro_diffusion.data.prepare.preparation import Preparation
from micro_diffusion.data.sources.shape_scenes import BACKGROUNDS
from micro_diffusion.data.sources.shapes import Shapes
from micro_diffusion.training.build import train
from micro_diffusion.training.config_checks.resolvers import register_resolvers
from tests.forked_process import fork, wait
from tests.small_training import KILLER, losses

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.fixture
def config(tmp_path) -> DictConfig:
    source = Shapes(seed=0, count=12, resolution=16)
    convert(source=source, out=tmp_path / "images", preparation=Preparation(), engine=Processes(count=1))
    register_resolvers()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(
            "train_autoencoder",
            overrides=[
                f"output_dir={tmp_path}/runs",
                f"train_loader.paths=[{tmp_path}/images]",
                f"eval_loader.paths=[{tmp_path}/images]",
                "train_loader.batch_size=4",
                "resolution=16",
                "autoencoder.width=8",
                "algorithms.ema.start=2ba",
                "trainer.max_duration=5ba",
                "machine=cpu",
            ],
        )


def test_the_run_folder_holds_a_loadable_autoencoder(config, tmp_path):
    train(config)
    run = tmp_path / "runs" / "autoencoder"
    autoencoder = KLAutoencoder.load(run / "autoencoder", channels=4, downsampling=4)
    assert (autoencoder.scaling != 1).all(), "the scale was not measured"
    assert (run / "complete.json").is_file()
    logged = {name for line in (run / "metrics.jsonl").read_text().splitlines() for name in json.loads(line)}
    with Image.open(run / "samples" / "step_0000005.png") as grid:
        assert grid.getpixel((10, 10)) in BACKGROUNDS.values(), "the original comes first"
        assert grid.getpixel((10, 10 + 160)) not in BACKGROUNDS.values(), "and what five steps make of it below"
    assert {"loss/train/l1", "loss/train/kl", "metrics/eval/l1", "metrics/eval/psnr", "metrics/eval/kl"} <= logged


def test_a_run_that_was_killed_after_its_last_step_is_completed(config, tmp_path):
    run = tmp_path / "runs" / "autoencoder"
    train(config)
    before = KLAutoencoder.load(run / "autoencoder").state_dict()
    for file in ("complete.json", "model.safetensors", "ema.safetensors", "autoencoder/model.safetensors"):
        (run / file).unlink()
    train(config)
    assert (run / "complete.json").is_file()
    for key, value in KLAutoencoder.load(run / "autoencoder").state_dict().items():
        assert torch.equal(value, before[key]), key


def test_a_killed_run_goes_on_as_if_nothing_had_happened(config, tmp_path, monkeypatch):
    (tmp_path / "killer.py").write_text(KILLER)
    monkeypatch.syspath_prepend(tmp_path)
    config.exp_name, config.trainer.save_interval = "killed", "2ba"
    with_killer = copy.deepcopy(config)
    OmegaConf.update(with_killer, "callbacks.kill", {"_target_": "killer.KillAt", "step": 4}, force_add=True)
    assert wait([fork(partial(train, with_killer), tmp_path / "log")], seconds=100) == [-signal.SIGKILL]
    train(config)
    config.exp_name = "whole"
    train(config)
    killed, whole = (tmp_path / "runs" / name for name in ("killed", "whole"))
    assert losses(killed) == losses(whole) and len(losses(whole)) == 5
    expected = KLAutoencoder.load(whole / "autoencoder").state_dict()
    for key, value in KLAutoencoder.load(killed / "autoencoder").state_dict().items():
        assert torch.equal(value, expected[key]), key


def test_a_run_goes_on_from_another_one(config, tmp_path):
    train(config)
    config.exp_name, config.init_from = "second", str(tmp_path / "runs" / "autoencoder")
    config.optimizer.lr = 0.0
    train(config)
    first, second = (KLAutoencoder.load(tmp_path / "runs" / name / "autoencoder") for name in ("autoencoder", "second"))
    for key, value in first.decoder.state_dict().items():
        assert value.equal(second.decoder.state_dict()[key])
