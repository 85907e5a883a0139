"""What a checkpoint holds beside the model, against what a training would restore."""

from collections.abc import Sequence

import pytest
import torch

from micro_diffusion.training.checkpoints.content import Content, check_algorithms, check_all_is_taken
from micro_diffusion.training.optimizers.ema import EMA

GROUP = {"lr": 0.1, "weight_decay": 0.0}
STATE = {"EMA": True}
HELD = Content({}, {"SGD": [GROUP]}, STATE)
AVERAGE = [EMA(smoothing=0.9, start="0ba")]


def check(content: Content, *ignored: str, groups: int = 1) -> None:
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1)]} for _ in range(groups)], lr=0.1)
    check_all_is_taken(content, optimizer, AVERAGE, ignored=ignored, source="a.pt")


@pytest.mark.parametrize(
    ("content", "missing"),
    [
        (Content({}, {}, STATE), "SGD"),
        (Content({}, {"SGD": [GROUP]}, {}), "EMA"),
        (Content({}, {}, {}), "SGD, EMA"),
    ],
)
def test_a_state_that_a_checkpoint_lacks_is_named(content: Content, missing: str):
    with pytest.raises(ValueError, match=f"a.pt holds no state of {missing}, which would begin anew; set trainer.lo"):
        check(content)


def test_what_is_left_out_on_purpose_may_lack():
    check(HELD)
    check(Content({}, {"SGD": []}, STATE))
    check(Content({}, {}, {}), "state/optimizers", "state/algorithms")
    check(Content({}, {}, STATE), "state/optimizers/*")


def test_groups_that_a_checkpoint_lacks_are_counted():
    with pytest.raises(ValueError, match=r"1 groups of parameters \(instead of 2\)"):
        check(HELD, groups=2)


def test_only_algorithms_of_the_checkpoint_that_this_training_lacks_are_excluded():
    def check_excluded(*excluded: str, ours: Sequence[EMA] = (), weights_only: bool = False) -> None:
        check_algorithms(held, ours, excluded=excluded, weights_only=weights_only, source="a.pt")

    held = Content({}, {}, {"EMA": True, "Alibi": False})
    check_excluded("EMA", "Alibi")
    check_excluded(weights_only=True)
    with pytest.raises(ValueError, match=r"1 algorithms that would be lost \(EMA\); add them to algorithms, or name"):
        check_excluded("Alibi")
    with pytest.raises(ValueError, match="names BlurPool, but a.pt holds EMA, Alibi; leave it out"):
        check_excluded("BlurPool", weights_only=True)
    with pytest.raises(ValueError, match="names EMA, which this training has and would load; take it out of algorit"):
        check_excluded("EMA", ours=AVERAGE)
