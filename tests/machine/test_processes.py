"""How many processes a machine is for, as taskset, containers and Slurm say."""

from __future__ import annotations

import os

import pytest

from micro_diffusion.machine.processes import usable_cores


@pytest.mark.parametrize(("slurm", "cores"), [(None, 4), ("2", 2), ("8", 4), ("", 4), ("0", 4)])
def test_limits_of_the_machine_and_of_slurm_hold(monkeypatch, slurm, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 5, 7}, raising=False)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    if slurm is not None:
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", slurm)
    assert usable_cores() == cores


def test_without_affinity_all_cores_count(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert usable_cores() == 3
