"""scripts/slurm_train.sh with stand-ins for Slurm's commands and the launcher, which note how they are called."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "slurm_train.sh"

STAND_INS = {
    "scontrol": '[[ "$*" == "show hostnames node[3-4]" ]] && printf "node3\\nnode4\\n"',
    "srun": """options=(); while [[ $1 == --* ]]; do options+=("$1"); shift; done
for SLURM_NODEID in 0 1; do export SLURM_NODEID SRUN_OPTIONS="${options[*]}"; "$@"; done""",
    "composer": 'printf "%s: %s\\n" "$SRUN_OPTIONS" "$*"',
}

JOB = {"SLURM_JOB_NODELIST": "node[3-4]", "SLURM_NNODES": "2", "SLURM_JOB_ID": "7", "SLURM_GPUS_ON_NODE": "8"}


@pytest.fixture
def run(tmp_path):
    for name, body in STAND_INS.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / name).chmod(0o755)

    def start(*arguments: str, **job: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", **job}
        return subprocess.run(["bash", str(SCRIPT), *arguments], env=environment, capture_output=True, text=True)

    return start


@pytest.mark.parametrize(("cores", "options"), [({"SLURM_CPUS_PER_TASK": "64"}, " --cpus-per-task=64"), ({}, "")])
def test_every_node_starts_its_share_of_the_ranks_with_the_cores_of_the_job(run, cores, options):
    result = run("256_pretrain", "exp_name=a b", "parallelism=hsdp", **JOB, **cores)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        f"--kill-on-bad-exit=1{options}: --node_rank {node} "
        "--nproc 8 --world_size 16 --master_addr node3 --master_port 20007 "
        "train.py --config-path ./configs --config-name 256_pretrain.yaml exp_name=a b parallelism=hsdp"
        for node in (0, 1)
    ]


def test_what_it_lacks_is_one_sentence(run):
    for arguments, job in (((), JOB), (("256_pretrain",), {})):
        result = run(*arguments, **job)
        assert result.returncode == 2 and result.stderr.startswith("slurm_train.sh: give a stage")
    without_gpus = {key: value for key, value in JOB.items() if key != "SLURM_GPUS_ON_NODE"}
    result = run("256_pretrain", **without_gpus)
    assert result.returncode == 1 and "add --gpus-per-node=8 to sbatch" in result.stderr


def test_its_syntax_is_sound():
    assert subprocess.run(["bash", "-n", str(SCRIPT)]).returncode == 0
