"""A rank that runs out of memory has all ranks halve the microbatch, and nothing else is learned than without that."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from micro_diffusion.backbone.block import Block
from micro_diffusion.training.latent_diffusion import LatentDiffusion
from micro_diffusion.training.optimizers.muon import Muon
from tests.forked_training import output, run_forked
from tests.small_training import make_latents
from tests.training.test_many_devices import ORTHOGONALISED_IN_BF16

SETTING = [
    "train_loader.batch_size=16",
    "eval_loader.batch_size=16",
    "trainer.max_duration=6ba",
    "trainer.eval_interval=3ba",
    "trainer.save_interval=100ba",
    "model.cpu_precision=fp32",
]
LACK = "CUDA out of memory. Tried to allocate 2.00 GiB"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("memory")
    make_latents(folder, count=48)
    return folder


def train(workplace: Path, name: str, *arguments: str, spoil: Callable[[int], None] | None = None, **options):
    prepare = (lambda rank: (spoil(rank), [])[1]) if spoil else (lambda rank: [])
    return run_forked(workplace, f"exp_name={name}", *SETTING, *arguments, prepare=prepare, **{"ranks": 2, **options})


def numbers(run: Path) -> dict[str, float]:
    """Losses of training and evaluation, of all ranks together."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    wanted = ("loss/train/total", "metrics/eval/loss")
    return {f"{line['step']} {name}": line[name] for line in lines for name in wanted if name in line}


def sizes(run: Path, key: str = "trainer/device_train_microbatch_size") -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line[key] for line in lines if key in line]


@pytest.fixture(scope="module")
def whole(workplace) -> Path:
    """A training of two ranks, with 8 samples each, that lacks nothing."""
    assert train(workplace, "whole") == [0, 0], output(workplace)
    return workplace / "runs" / "whole"


def assert_same(run: Path, whole: Path) -> None:
    """To the rounding of sums that are taken in another order."""
    assert numbers(run) == pytest.approx(numbers(whole), rel=1e-5)
    for file in ("model.safetensors", "ema.safetensors"):
        ours, theirs = load_file(run / file), load_file(whole / file)
        for key, tensor in theirs.items():
            assert torch.dist(ours[key], tensor) <= ORTHOGONALISED_IN_BF16 * tensor.norm(), key


def no_room_forward(rank: int) -> None:
    """The second rank holds the activations of two samples."""
    original = LatentDiffusion.forward

    def forward(model, batch):
        if len(batch["latents"]) > 2 and model.training:
            raise torch.OutOfMemoryError(LACK)
        return original(model, batch)

    if rank == 1:
        LatentDiffusion.forward = forward


class Backward(torch.autograd.Function):
    """Runs out of memory in the backward passes of some numbers."""

    calls = 0
    lacking: frozenset[int] = frozenset()

    @staticmethod
    def forward(ctx, loss):
        return loss.clone()

    @staticmethod
    def backward(ctx, gradient):
        Backward.calls += 1
        if Backward.calls in Backward.lacking:
            raise torch.OutOfMemoryError(LACK)
        return gradient


def no_room_backward(*calls: int) -> Callable[[int], None]:
    """These backward passes of the second rank fail, counted over all steps, for whatever happened on the first."""

    def spoil(rank: int) -> None:
        original = LatentDiffusion.loss
        if rank == 1:
            Backward.lacking = frozenset(calls)
            LatentDiffusion.loss = lambda model, outputs, batch: Backward.apply(original(model, outputs, batch))

    return spoil


CASES = {
    "forward": (no_room_forward, [2, 2, 2, 2, 2, 2], []),
    "backward": (no_room_backward(1), [4, 4, 4, 4, 4, 4], []),
    "last backward of the first step": (no_room_backward(4), [1, 1, 1, 1, 1, 1], ["=2"]),
    "third step": (no_room_backward(10), [2, 2, 1, 1, 1, 1], ["=2"]),
    "after an evaluation": (no_room_backward(4), [8, 8, 8, 4, 4, 4], []),
}


@pytest.mark.parametrize(
    "case",
    [case if case == "forward" else pytest.param(case, marks=pytest.mark.slow) for case in CASES],
)
def test_all_ranks_take_the_step_again_in_halves(workplace, whole, case):
    spoil, expected, microbatch = CASES[case]
    name = case.replace(" ", "_")
    arguments = [f"trainer.device_train_microbatch_size{size}" for size in microbatch]
    assert train(workplace, name, *arguments, spoil=spoil) == [0, 0], output(workplace) + output(workplace, 1)
    run = workplace / "runs" / name
    assert sizes(run) == expected
    assert_same(run, whole)


def test_after_its_trial_it_is_an_error_that_nobody_waits_for(workplace):
    """The fifth step is the first whose gradients DDP exchanges while they are computed."""
    arguments = ["trainer.eval_interval=100ba"]
    statuses = train(workplace, "late", *arguments, spoil=no_room_backward(5), seconds=60)
    assert statuses == [1, 1]
    assert "Error: the GPU's memory does not hold a microbatch" in output(workplace, 1)
    assert "Error: another rank of this job has ended" in output(workplace, 0)


def no_room_within(part: str) -> Callable[[int], None]:
    """The fifth block of the first step fails, in its forward or its backward pass, while others are done."""

    def lack(*arguments: object) -> None:
        raise torch.OutOfMemoryError(LACK)

    def spoil(rank: int) -> None:
        original, calls = Block.forward, [0]

        def forward(block, *inputs, **options):
            tokens = original(block, *inputs, **options)
            calls[0] += 1
            if calls[0] == 5:
                lack() if part == "forward" else tokens.register_hook(lack)
            return tokens

        Block.forward = forward

    return spoil


@pytest.mark.parametrize("part", ["forward", "backward"])
def test_one_sharded_rank_takes_the_step_again(workplace, whole, part):
    name, microbatch = f"alone_{part}", "trainer.device_train_microbatch_size=8"
    statuses = train(workplace, name, "parallelism=fsdp", microbatch, spoil=no_room_within(part), ranks=1)
    assert statuses == [0], output(workplace)
    run = workplace / "runs" / name
    assert sizes(run) == [4] * 6
    assert_same(run, whole)


@pytest.mark.slow
def test_ranks_that_share_a_network_end_within_a_minute_and_go_on_with_a_smaller_microbatch(workplace, whole):
    command = ["parallelism=fsdp", "trainer.save_interval=2ba"]
    assert train(workplace, "sharded", *command, spoil=no_room_backward(3), seconds=60) == [1, 1]
    assert "Error: the GPU's memory does not hold a microbatch" in output(workplace, 1)
    assert "set trainer.device_train_microbatch_size to a smaller number" in output(workplace, 1)
    assert "Error: another rank of this job has ended" in output(workplace, 0)
    assert train(workplace, "sharded", *command, "trainer.device_train_microbatch_size=4") == [0, 0], output(workplace)
    assert "resumes at step 2" in output(workplace)
    assert_same(workplace / "runs" / "sharded", whole)


def test_two_ranks_that_cannot_hold_a_sample_say_so(workplace):
    statuses = train(workplace, "never", spoil=no_room_backward(*range(100)))
    assert statuses == [1, 1]
    for rank in (0, 1):
        assert "Error: the GPU's memory does not hold a single sample" in output(workplace, rank)


def no_room_in_the_optimizer(rank: int) -> None:
    def step(optimizer, closure):
        closure()
        raise torch.OutOfMemoryError(LACK)

    Muon.step = step


def test_lack_of_memory_in_the_optimizer_is_an_error(workplace):
    """It may have changed some of the weights."""
    assert train(workplace, "optimizer", spoil=no_room_in_the_optimizer, ranks=1) == [1]
    assert "Error: the GPU's memory does not hold" in output(workplace)


def no_room_to_evaluate(rank: int) -> None:
    original, calls = LatentDiffusion.eval_forward, [0]

    def eval_forward(model, batch, outputs=None):
        calls[0] += 1
        if len(batch["latents"]) > 4 or calls[0] == 3:  # the first is too large, and later the second of two
            raise torch.OutOfMemoryError(LACK)
        return original(model, batch, outputs)

    if rank == 1:
        LatentDiffusion.eval_forward = eval_forward


def test_an_evaluation_counts_no_sample_twice(workplace, whole):
    assert train(workplace, "evaluation", spoil=no_room_to_evaluate) == [0, 0], output(workplace)
    run = workplace / "runs" / "evaluation"
    assert sizes(run, "trainer/eval/device_eval_microbatch_size")[-1] == 2
    assert_same(run, whole)
