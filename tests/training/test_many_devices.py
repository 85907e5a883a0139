"""Training on two processes is training on one: the same losses, and checkpoints that either goes on from."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch
from composer.core import Callback
from safetensors.torch import load_file

from tests.forked_training import output, run_forked
from tests.small_training import make_latents, train_here

SETTING = [
    "train_loader.batch_size=16",
    "eval_loader.batch_size=16",
    "trainer.max_duration=6ba",
    "trainer.eval_interval=6ba",
    "trainer.save_interval=1ba",
    "model.cpu_precision=fp32",
    "callbacks.optimizer_monitor.batch_log_interval=1",
]

TORCH = tuple(int(number) for number in torch.__version__.split(".")[:2])
ORTHOGONALISED_IN_BF16 = 2**-6
"""Relative difference of a matrix that began at zero and took six steps of Muon, each rounded to 2⁻⁸."""

MESHES = {"ddp": "{None}", "compiled": "{None}", "fsdp": "{(2,)}", "hsdp": "{(2, 2)}"}
"""The shapes of the device meshes that weights are on: groups, and ranks within one."""


class Mesh(Callback):
    """Prints the meshes that the weights are on."""

    def fit_start(self, state, logger) -> None:
        meshes = [getattr(parameter, "device_mesh", None) for parameter in state.model.parameters()]
        print("weights on", {mesh and tuple(mesh.shape) for mesh in meshes})


AVERAGES = pytest.mark.skipif(
    TORCH < (2, 11), reason=f"torch {torch.__version__} cannot average over groups of CPUs; 2.11 can"
)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("many_devices")
    make_latents(folder, count=48)
    return folder


@pytest.fixture(scope="module")
def one_rank(workplace) -> Path:
    """1 rank × batch 16, from start to end: six steps, two epochs."""
    train_here(workplace, "exp_name=one", *SETTING)
    return workplace / "runs" / "one"


def numbers(run: Path) -> dict[str, float]:
    """Losses, evaluation losses and gradient norms."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    wanted = ("loss/train/total", "metrics/eval/loss", "l2_norm/grad/global")
    return {f"{line['step']} {name}": line[name] for line in lines for name in wanted if name in line}


def assert_same(run: Path, expected: Path) -> None:
    assert numbers(run) == pytest.approx(numbers(expected), rel=1e-5)
    for file in ("model.safetensors", "ema.safetensors"):
        ours, theirs = load_file(run / file), load_file(expected / file)
        assert ours.keys() == theirs.keys()
        for key, tensor in theirs.items():
            assert torch.dist(ours[key], tensor) <= ORTHOGONALISED_IN_BF16 * tensor.norm(), key
    assert sorted(p.name for p in (run / "samples").iterdir()) == ["step_0000006.png"]


RESUMING = {
    "ddp to one": ("ddp", 1, "ddp"),
    "ddp to two": ("ddp", 2, "ddp"),
    "whole fsdp to one": ("fsdp", 1, "ddp"),
    "whole fsdp to two": ("fsdp", 2, "fsdp"),
    "sharded fsdp to one": ("sharded", 1, "sharded"),
    "sharded fsdp to two": ("sharded", 2, "sharded"),
    "whole hsdp to one": pytest.param("hsdp", 1, "ddp", marks=AVERAGES),
    "whole hsdp to two": pytest.param("hsdp", 2, "hsdp", marks=AVERAGES),
    "sharded hsdp to two": pytest.param("sharded_hsdp", 2, "sharded_hsdp", marks=AVERAGES),
}
OPTIONS = {
    "ddp": ["parallelism=ddp"],
    "compiled": ["parallelism=ddp", "trainer.compile_config={backend: aot_eager}"],
    "fsdp": ["parallelism=fsdp"],
    "sharded": ["parallelism=fsdp", "parallelism.fsdp.checkpoints=sharded"],
    "hsdp": ["parallelism=hsdp", "parallelism.fsdp.replicas=2"],
    "sharded_hsdp": ["parallelism=hsdp", "parallelism.fsdp.replicas=2", "parallelism.fsdp.checkpoints=sharded"],
}


RANKS = {"ddp": 2, "compiled": 2, "fsdp": 2, "sharded": 2, "hsdp": 4, "sharded_hsdp": 4}  # two groups of two


@pytest.mark.parametrize(
    "parallelism",
    [
        "ddp",
        pytest.param("compiled", marks=pytest.mark.slow),
        pytest.param("fsdp", marks=pytest.mark.slow),
        pytest.param("hsdp", marks=[pytest.mark.slow, AVERAGES]),
    ],
)
def test_several_ranks_learn_what_one_learns(workplace, one_rank, parallelism):
    ranks = RANKS[parallelism]
    asked = [f"exp_name={parallelism}", *OPTIONS[parallelism], f"+callbacks.mesh._target_={__name__}.Mesh"]
    assert run_forked(workplace, *asked, *SETTING, ranks=ranks) == [0] * ranks, output(workplace)
    assert f"weights on {MESHES[parallelism]}" in output(workplace)
    assert_same(workplace / "runs" / parallelism, one_rank)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "ranks", "after"), RESUMING.values(), ids=RESUMING)
def test_a_checkpoint_of_several_ranks_resumes_on_one_and_two(workplace, one_rank, before, ranks, after):
    """Stopped within the second epoch by killed ranks, then continued on some number of ranks."""
    name = f"exp_name=resumed_{before}_{ranks}"
    kill = ["+callbacks.kill._target_=killer.KillAt", "+callbacks.kill.step=4"]
    killed = run_forked(workplace, name, *OPTIONS[before], *SETTING, *kill, ranks=RANKS[before], together=True)
    assert -signal.SIGKILL in killed
    assert run_forked(workplace, name, *OPTIONS[after], *SETTING, ranks=ranks) == [0] * ranks, output(workplace)
    assert "resumes at step 4" in output(workplace)
    assert_same(workplace / "runs" / name.partition("=")[2], one_rank)
