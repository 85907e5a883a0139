"""A batch whose loss or gradient is no number changes nothing, and is named."""

import errno
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from composer import Timestamp
from composer.core import Precision
from composer.devices import DeviceCPU

from micro_diffusion.training.callbacks.nan_guard import NaNGuard

NAN = float("nan")


def after_backward(*, losses=(1.0,), gradient=1.0):
    """The state of a training between the backward pass of its microbatches and the optimizer's step."""
    weight = torch.nn.Parameter(torch.ones(3))
    state = SimpleNamespace(
        optimizers=[torch.optim.AdamW([weight], lr=0.1, weight_decay=0.1)],
        batch={"caption": ["a red circle", "a blue star"], "key": ["0001", "0002"]},
        timestamp=Timestamp(epoch=2, batch=12, batch_in_epoch=3),
        precision=Precision.FP32,
        device=DeviceCPU(),
    )
    weight.grad = torch.tensor([1.0, gradient, 1.0])
    return state, weight, losses


def step(guard, state, losses):
    guard.before_train_batch(state, None)
    for loss in losses:
        state.loss = torch.tensor(loss)
        guard.after_loss(state, None)
    guard.after_train_batch(state, None)
    state.optimizers[0].step()


@pytest.mark.parametrize("case", [{"losses": (1.0, NAN, 1.0)}, {"losses": (float("inf"),)}, {"gradient": NAN}])
def test_what_is_no_number_stops_training_and_its_keys_are_saved(tmp_path, case):
    state, weight, losses = after_backward(**case)
    with pytest.raises(FloatingPointError) as caught:
        step(NaNGuard(folder=str(tmp_path), max_skipped_batches=0), state, losses)
    file = tmp_path / "step_0000012_rank0.json"
    assert "not finite at step 12 (batch 3 of epoch 2): loss " in str(caught.value)
    assert f"keys are in {file}, lower optimizer.lr" in str(caught.value)
    assert json.loads(file.read_text())["key"] == ["0001", "0002"]
    assert torch.equal(weight, torch.ones(3))


def test_keys_that_cannot_be_written_do_not_hide_the_loss(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    state, weight, losses = after_backward(losses=(NAN,))
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match=r"not finite at step 12 .*: loss nan, .*cannot be written to .*No space left on"):
        step(NaNGuard(folder=str(tmp_path), max_skipped_batches=1), state, losses)
    assert torch.equal(weight, torch.ones(3))


def test_a_skipped_batch_leaves_weights_and_optimizer_alone(tmp_path, caplog):
    guard = NaNGuard(folder=str(tmp_path), max_skipped_batches=2)
    state, weight, losses = after_backward(losses=(NAN,))
    step(guard, state, losses)
    assert torch.equal(weight, torch.ones(3)) and not state.optimizers[0].state
    assert "skipped the batch at step 12" in caplog.text and "1 of at most 2" in caplog.text
    weight.grad = torch.ones(3)
    step(guard, state, (1.0,))
    assert not torch.equal(weight, torch.ones(3))


def test_the_count_goes_on_after_a_restart(tmp_path):
    guard = NaNGuard(folder=str(tmp_path), max_skipped_batches=1)
    state, _, losses = after_backward(losses=(NAN,))
    step(guard, state, losses)
    resumed = NaNGuard(folder=str(tmp_path), max_skipped_batches=1)
    resumed.load_state_dict(guard.state_dict())
    with pytest.raises(FloatingPointError, match="raise callbacks.nan_guard.max_skipped_batches from 1"):
        step(resumed, state, losses)


def test_a_bad_batch_does_not_colour_the_next(tmp_path):
    guard = NaNGuard(folder=str(tmp_path), max_skipped_batches=1)
    state, weight, _ = after_backward(losses=(NAN,))
    step(guard, state, (NAN,))
    weight.grad = torch.ones(3)
    step(guard, state, (1.0, 2.0))
    assert guard.skipped == 1 and not torch.equal(weight, torch.ones(3))
