"""What the arguments of Composer's classes may be, which declare types alone."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypedDict

from annotated_types import Ge, MinLen
from composer import Time
from composer.core import Precision
from pydantic import AfterValidator

from micro_diffusion.bounds import PositiveInt
from micro_diffusion.training.config_checks.arguments import in_words
from micro_diffusion.training.times import Duration, Interval


def _time(text: str) -> str:
    if Time.from_timestring(text).value < 0:
        raise ValueError("before the start")
    return text


NAMED: dict[Any, Any] = {
    Time: Annotated[
        str, MinLen(1), AfterValidator(_time), in_words("a time such as 1000ba (steps), 2ep (epochs) or 0.5dur")
    ]
}
"""Types that say which texts name their values."""

_Batches = Annotated[PositiveInt | Literal[-1], in_words("1 or more, or to -1 for all batches")]


class ComposerArguments(TypedDict):
    """Arguments by name, in whichever class; the other numbers are finite and not negative.

    Not null: max_duration, eval_interval, save_interval, device and precision, without which Composer chooses itself.
    """

    max_duration: Duration
    eval_interval: Interval
    save_interval: Interval
    console_log_interval: Interval
    device: str
    precision: Precision
    window_size: PositiveInt
    batch_log_interval: PositiveInt
    dist_aggregate_batch_interval: PositiveInt | None
    dist_timeout: Annotated[float, Ge(1)]
    train_subset_num_batches: _Batches
    eval_subset_num_batches: _Batches
    save_num_checkpoints_to_keep: Annotated[PositiveInt | Literal[-1], in_words("1 or more, or to -1 to keep all")]
    device_train_microbatch_size: Annotated[
        PositiveInt | None,  # auto, which Composer offers with FSDP1 only
        in_words(
            "a whole number, or to null for the whole batch; it is halved where it does not fit, but for several ranks "
            "with parallelism=fsdp"
        ),
    ]
    accumulate_train_batch_on_tokens: Annotated[
        Literal[False], in_words("false, since it weighs microbatches by their tokens, of which images have none")
    ]
