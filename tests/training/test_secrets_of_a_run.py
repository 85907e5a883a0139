"""A short run with secrets around it: none reaches what it writes or says."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.small_training import make_latents, succeeded, train_command

SECRETS = {
    "HF_TOKEN": "hf_" + "Qx7" * 11,
    "WANDB_API_KEY": "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY",
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
}

TALKER = """
import logging, os
from composer import Callback

class Talker(Callback):
    def fit_start(self, state, logger):
        logging.getLogger("a.library").warning("the token is %s", os.environ["HF_TOKEN"])
"""


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_latents(tmp_path / "data", count=8)
    (tmp_path / "data" / "talker.py").write_text(TALKER)
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)
    return tmp_path / "data"


def leaks(folder: Path, result: subprocess.CompletedProcess[str], secrets: Iterable[str]) -> list[str]:
    """Where a secret stands: in a file of the run, or in what it said."""
    contents = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    contents |= {"stdout": result.stdout.encode(), "stderr": result.stderr.encode()}
    return [name for name, content in contents.items() for secret in secrets if secret.encode() in content]


def test_secrets_stay_outside_of_a_run(workplace: Path):
    short = ["exp_name=short", "trainer.max_duration=3ba", "trainer.eval_interval=3ba"]
    result = train_command(workplace, *short, "+callbacks.talker={_target_: talker.Talker}")
    assert "the token is ***" in succeeded(result)
    run = workplace / "runs" / "short"
    assert {"config.yaml", "metrics.jsonl", "tensorboard", "checkpoints"} <= {path.name for path in run.iterdir()}
    assert leaks(run, result, SECRETS.values()) == []

    result = train_command(workplace, "exp_name=leaky", "prompts.captions=[${oc.env:HF_TOKEN}]")
    assert result.returncode == 1
    assert "prompts.captions holds a secret, which would be saved with the run" in result.stderr
    assert not (workplace / "runs" / "leaky").exists()
    assert leaks(workplace, result, SECRETS.values()) == []
