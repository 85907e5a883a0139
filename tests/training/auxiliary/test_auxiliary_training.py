"""`train.py` with further losses: resumed exactly, their heads with it, and nothing of them in what is exported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from micro_diffusion.performance.training_step import activation_bytes
from tests.small_training import losses, make_latents, train_here
from tests.training.test_representation_training import train_representation

LOSSES = ["+auxiliary=[repa,perceptual]", "model.auxiliary.repa.block=1", "model.auxiliary.repa.until=0.8"]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("auxiliary")
    make_latents(folder, count=12)
    train_representation(folder)
    return folder


def test_a_run_with_further_losses_is_resumed_exactly_and_exports_the_network_alone(workplace, monkeypatch):
    monkeypatch.syspath_prepend(workplace)
    runs = workplace / "runs"
    encoders = [
        f"model.auxiliary.{loss}encoder.run={runs}/representation" for loss in ("repa.", "perceptual.distance.")
    ]
    command = [*LOSSES, *encoders, "trainer.max_duration=5ba", "trainer.eval_interval=5ba", "callbacks=monitors"]
    train_here(workplace, "exp_name=whole", *command)
    told = "+callbacks.kill={_target_: killer.KillAt, step: 3, name: SIGTERM}"
    with pytest.raises(SystemExit):
        train_here(workplace, "exp_name=resumed", *command, told)
    train_here(workplace, "exp_name=resumed", *command)
    assert losses(runs / "resumed") == losses(runs / "whole") and len(losses(runs / "whole")) == 5
    lines = [json.loads(line) for line in (runs / "whole/metrics.jsonl").read_text().splitlines()]
    terms = [line["loss/train/repa"] for line in lines if "loss/train/repa" in line]
    assert len(terms) == 5 and all(terms[:4]) and terms[4] == 0
    state = torch.load(next((runs / "whole/checkpoints").glob("ep*")), weights_only=False)["state"]["model"]
    assert {key.split(".")[0] for key in state} == {"network", "auxiliary"}
    assert {key.split(".")[1] for key in state if key.startswith("auxiliary")} == {"repa"}
    for file in ("model.safetensors", "ema.safetensors"):
        resumed, whole = load_file(runs / "resumed" / file), load_file(runs / "whole" / file)
        assert all(torch.equal(resumed[key], value) for key, value in whole.items())
        assert {f"network.{key}" for key in whole} == {key for key in state if key.startswith("network.")}


def test_what_a_step_keeps_is_counted(workplace):
    from hydra import compose, initialize_config_dir

    from tests.small_training import ROOT, overrides

    def kept(*changes: str) -> int:
        with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
            return activation_bytes(compose("quickstart_32_pretrain", [*overrides(workplace), *changes]))

    run = f"model.auxiliary.repa.encoder.run={workplace}/runs/representation"
    assert kept("+auxiliary=repa", "model.auxiliary.repa.block=1", run) > kept()
