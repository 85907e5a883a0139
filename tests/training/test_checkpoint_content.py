"""What a checkpoint holds beside the model, against what a training would restore."""

import pytest
import torch

from micro_diffusion.training.checkpoint_content import Content, check_all_is_taken
from micro_diffusion.training.ema import EMA

GROUP = {"lr": 0.1, "weight_decay": 0.0}
HELD = Content({}, {"SGD": [GROUP]}, ["EMA"])


def check(content: Content, *ignored: str, groups: int = 1) -> None:
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1)]} for _ in range(groups)], lr=0.1)
    check_all_is_taken(content, optimizer, [EMA(smoothing=0.9, start="0ba")], ignored=ignored, source="a.pt")


@pytest.mark.parametrize(
    ("content", "missing"),
    [
        (Content({}, {}, ["EMA"]), "SGD"),
        (Content({}, {"SGD": [GROUP]}, []), "EMA"),
        (Content({}, {}, []), "SGD, EMA"),
    ],
)
def test_a_state_that_a_checkpoint_lacks_is_named(content: Content, missing: str):
    with pytest.raises(ValueError, match=f"a.pt holds no state of {missing}, which would begin anew; set trainer.lo"):
        check(content)


def test_what_is_left_out_on_purpose_may_lack():
    check(HELD)
    check(Content({}, {"SGD": []}, ["EMA"]))
    check(Content({}, {}, []), "state/optimizers", "state/algorithms")
    check(Content({}, {}, ["EMA"]), "state/optimizers/*")


def test_groups_that_a_checkpoint_lacks_are_counted():
    with pytest.raises(ValueError, match=r"1 groups of parameters \(instead of 2\)"):
        check(HELD, groups=2)
