"""A short run with secrets around it: none reaches what it writes or says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.test_train import ROOT, overrides, workplace  # noqa: F401 — a fixture

SECRETS = {
    "HF_TOKEN": "hf_" + "Qx7" * 11,
    "WANDB_API_KEY": "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY",
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
}


def train(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "train.py", "--config-name", "quickstart_32_pretrain", "exp_name=secret"]
    return subprocess.run(
        [*command, *overrides(folder), "trainer.max_duration=3ba", "trainer.eval_interval=3ba", *arguments],
        cwd=ROOT,
        env={**os.environ, **SECRETS},
        capture_output=True,
        text=True,
    )


def leaks(folder: Path, result: subprocess.CompletedProcess[str], secrets) -> list[str]:
    """Where a secret stands: in a file of the run, or in what it said."""
    contents = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    contents |= {"stdout": result.stdout.encode(), "stderr": result.stderr.encode()}
    return [name for name, content in contents.items() for secret in secrets if secret.encode() in content]


def test_nothing_that_a_run_writes_holds_a_secret_of_the_environment(workplace: Path):  # noqa: F811
    result = train(workplace)
    assert result.returncode == 0, result.stderr[-2000:]
    run = workplace / "runs" / "secret"
    assert {"config.yaml", "metrics.jsonl", "tensorboard", "checkpoints"} <= {path.name for path in run.iterdir()}
    assert leaks(run, result, SECRETS.values()) == []


@pytest.mark.parametrize(
    ("override", "secret"),
    [
        ("prompts.captions=[${oc.env:HF_TOKEN}]", SECRETS["HF_TOKEN"]),
        ("output_dir=s3://someone:hunter2hunter2@host/bucket", "hunter2hunter2"),
    ],
)
def test_a_secret_in_an_override_stops_the_run_before_it_writes(
    workplace: Path,  # noqa: F811
    override: str,
    secret: str,
):
    result = train(workplace, "exp_name=leaky", override)
    assert result.returncode == 1
    assert f"{override.split('=')[0]} holds a secret, which would be saved with the run" in result.stderr
    assert not (workplace / "runs" / "leaky").exists()
    assert leaks(workplace, result, [secret]) == []
