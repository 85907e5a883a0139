"""Values of a configuration against annotations and their bounds."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import torch
from annotated_types import Ge, Le, MinLen
from composer import Time
from composer.core import Precision
from composer.distributed import DDPSyncStrategy
from composer.profiler import Profiler

from micro_diffusion.backbone.dit import SparseDiT
from micro_diffusion.bounds import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Seed
from micro_diffusion.data.prepare.precompute import precompute
from micro_diffusion.sampling.sampler import Sampler
from micro_diffusion.training.config_checks.arguments import (
    argument_annotations,
    argument_types,
    expected,
    fits,
    settable,
)
from micro_diffusion.training.times import Duration, Interval

NODE = {"_target_": "a.b"}


@pytest.mark.parametrize(
    ("hint", "fitting", "others"),
    [
        (int, [0, -3], [1.0, True, "1", None, [1], {}]),
        (float, [1, 0.5, -1], [False, "1", math.nan, math.inf, None]),
        (bool, [True, False], [0, 1, "true", None]),
        (str, ["a"], ["", 1, None, ["a"]]),
        (str | None, ["a", None], [1]),
        (str | Path, ["a"], [1, None]),
        (Literal["ema", "raw"], ["ema"], ["best", 1]),
        (Sequence[str], [["", "a"]], ["a", [1]]),
        (Sequence[float], [[], [1, 0.5]], ["ab", [1, "a"], 1]),
        (int | Sequence[int], [4, [4, 8]], [[4.5], "4"]),
        (tuple[float, float], [[0.9, 1]], [[0.9], [1, 2, 3]]),
        (dict[str, int], [{}, {"a": 1}], [{"a": "b"}, 1]),
        (str | torch.dtype, ["a"], [1, [1]]),  # the plain alternative is the one for configurations
        (torch.dtype | None, ["float32", None], [3, []]),  # a library may make its own of text
        (Profiler | None, [NODE, None], [3, "a", {}]),
        (str | Precision | None, ["fp32", None], ["zzz", ""]),
        (int | str | Time, [3, "5ba", "0.5dur"], ["zzz", "", [], None]),
        (PositiveInt, [1], [0, 1.0, True]),
        (NonNegativeFloat, [0, 0.5], [-1, math.inf, math.nan]),
        (Annotated[float, Ge(0), Le(math.inf)], [0, math.inf], [-1, math.nan]),
        (Fraction, [0, 1], [-0.1, 1.1]),
        (Annotated[Sequence[PositiveFloat], MinLen(1)], [[1]], [[], [0], [math.inf], 1]),
        (Interval, [1, "1ba", "0.5dur"], [0, -1, "0ba", "-5ba", ""]),
        (Duration, ["1ep"], ["0.5dur"]),
        (str | Time, ["0ba"], ["-5ba", 0]),
        (Sampler, [NODE], ["heun", None, {}, {"steps": 3}]),
        (Callable[..., Sampler], [NODE], ["heun", 1]),
        (Any, [1, None, NODE], []),
    ],
)
def test_values_fit_their_annotation(hint, fitting, others):
    assert [value for value in fitting if not fits(value, settable(hint))] == []
    assert [value for value in others if fits(value, settable(hint))] == []


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int | None, "a whole number or null"),
        (Literal["ema", "raw"] | None, "ema or raw or null"),
        (Sequence[float], "a list (a finite number)"),
        (tuple[float, ...], "a list (a finite number)"),
        (tuple[float, float], "a list of 2 (a finite number)"),
        (Sampler, "a node with a _target_"),
        (str | DDPSyncStrategy | None, "single_auto_sync or multi_auto_sync or forced_sync or null"),
        (PositiveInt, "a whole number of at least 1"),
        (PositiveFloat, "a finite number above 0"),
        (Fraction, "a finite number from 0 to 1"),
        (Seed, "a whole number from 0 to 4294967295"),
        (Annotated[float, Ge(0), Le(math.inf)], "a finite number of at least 0 or inf"),
        (str | Time, "a time such as 1000ba (steps), 2ep (epochs) or 0.5dur"),
    ],
)
def test_what_to_set_is_said_in_words(hint, words):
    assert expected(settable(hint)) == words


def test_annotations_of_classes_and_functions():
    assert argument_annotations(SparseDiT)["rotary"] is bool and argument_annotations(SparseDiT)["dim"] == PositiveInt
    types = argument_annotations(precompute)
    assert types["workers"] == NonNegativeInt and types["autoencoder"] is Any  # imported for type checkers only


def test_numbers_of_composer_are_not_negative_and_those_of_others_may_be_anything():
    schedule = argument_types("composer.optim.CosineAnnealingWithWarmupScheduler")
    assert not fits(-1, schedule["alpha_f"]) and fits(0, schedule["alpha_f"])
    assert fits(-math.inf, argument_types("torch.nn.Threshold")["value"])
