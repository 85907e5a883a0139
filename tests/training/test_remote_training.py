"""A training whose data lie in S3, killed and resumed, learns what one with the same data in a folder learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.data.s3_server import s3_client
from tests.small_training import losses, make_latents, succeeded, train_command


@pytest.mark.slow
def test_a_killed_training_from_s3_equals_one_from_a_folder(tmp_path: Path):
    make_latents(tmp_path, count=32)
    copies = [f"train_loader.path={tmp_path}/copies", "train_loader.cache_limit=10mb"]
    remote = ["exp_name=remote", "train_loader.remote=s3://data/latents", *copies, "trainer.save_interval=4ba"]
    with s3_client("data") as client:
        for file in (tmp_path / "latents").iterdir():
            client.upload_file(str(file), "data", f"latents/{file.name}")
        killed = train_command(tmp_path, *remote, "+callbacks.kill._target_=killer.KillAt", "+callbacks.kill.step=11")
        assert killed.returncode != 0 and max(losses(tmp_path / "runs/remote")) == 10, killed.stderr[-3000:]
        assert "resumes at step 8" in succeeded(train_command(tmp_path, *remote))
    succeeded(train_command(tmp_path, "exp_name=local"))
    runs = [tmp_path / "runs" / name for name in ("remote", "local")]
    assert losses(runs[0]) == losses(runs[1])
    weights, expected = (load_file(run / "ema.safetensors") for run in runs)
    assert [key for key in expected if not torch.equal(weights[key], expected[key])] == []
