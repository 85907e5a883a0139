"""A training with its data and checkpoints in S3, killed and resumed elsewhere, learns what one with folders learns."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.data.s3_server import s3_client
from tests.small_training import losses, make_latents, succeeded, train_command


@pytest.mark.slow
def test_a_training_from_s3_whose_machine_is_lost_equals_one_from_a_folder(tmp_path: Path):
    make_latents(tmp_path, count=32)
    copies = [f"train_loader.path={tmp_path}/copies", "train_loader.cache_limit=10mb"]
    saving = ["trainer.save_folder=s3://data/of/remote", "trust_checkpoint=true", "trainer.save_interval=4ba"]
    remote = ["exp_name=remote", "train_loader.remote=s3://data/latents", *copies, *saving]
    with s3_client("data") as client:
        for file in (tmp_path / "latents").iterdir():
            client.upload_file(str(file), "data", f"latents/{file.name}")
        killed = train_command(tmp_path, *remote, "+callbacks.kill._target_=killer.KillAt", "+callbacks.kill.step=13")
        assert killed.returncode != 0 and max(losses(tmp_path / "runs/remote")) == 12, killed.stderr[-3000:]
        shutil.rmtree(tmp_path / "runs")
        resumed = re.search(r"resumes at step (\d+)", succeeded(train_command(tmp_path, *remote)))
    assert resumed is not None
    first = int(resumed[1])
    assert first in (8, 12)  # the copy of the last checkpoint may have been cut off
    succeeded(train_command(tmp_path, "exp_name=local"))
    runs = [tmp_path / "runs" / name for name in ("remote", "local")]
    assert losses(runs[0]) == {step: loss for step, loss in losses(runs[1]).items() if step >= first}
    weights, expected = (load_file(run / "ema.safetensors") for run in runs)
    assert [key for key in expected if not torch.equal(weights[key], expected[key])] == []
