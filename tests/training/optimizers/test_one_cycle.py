from types import SimpleNamespace
from typing import Any

import pytest
import torch
from composer import Time
from torch.optim.lr_scheduler import OneCycleLR

from micro_diffusion.training.optimizers.one_cycle import OneCycle


@pytest.mark.parametrize(("rise", "symmetric"), [(0.3, False), (0.45, True), (0.2, False)])
def test_is_the_cycle_of_torch(rise: float, symmetric: bool):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    theirs = OneCycleLR(
        optimizer, max_lr=1.0, total_steps=40, pct_start=rise, three_phase=symmetric, div_factor=10, final_div_factor=50
    )
    ours = OneCycle(rise=rise, start=1 / 10, end=1 / 500, symmetric=symmetric)
    for step in range(40):
        assert ours.factor(step, 40) == pytest.approx(theirs.get_last_lr()[0], abs=1e-9), step
        optimizer.step()
        theirs.step()


def state(duration: str, step: int, epoch: int | None) -> Any:
    length = None if epoch is None else Time.from_batch(epoch)
    return SimpleNamespace(
        max_duration=Time.from_timestring(duration),
        dataloader_len=length,
        timestamp=SimpleNamespace(batch=Time.from_batch(step)),
    )


def test_epochs_are_so_many_steps():
    cycle = OneCycle()
    assert cycle(state("4ep", 7, epoch=10)) == cycle(state("40ba", 7, epoch=10)) == cycle.factor(7, 40)


def test_a_length_without_steps_is_an_error():
    with pytest.raises(ValueError, match=r"trainer.max_duration=100sp does not say; set it in steps"):
        OneCycle()(state("100sp", 0, epoch=None))


def test_a_symmetric_cycle_rises_in_less_than_half_of_the_training():
    with pytest.raises(ValueError, match="schedule.rise is 0.5, .*; set it below 0.5"):
        OneCycle(rise=0.5, symmetric=True)
