"""What makes a host wait for its GPU in a step of a training, counted without one: values that are asked for."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from composer.core import Callback
from torch.overrides import TorchFunctionMode

from tests.small_training import make_latents, train_here

ASKING = ("item", "tolist", "numpy", "__bool__", "__float__", "__int__")
ASKED: Counter[str] = Counter()
ON_CPUS_ONLY = {"blockwise_attention.py", "gradient_clipping.py"}


class Asking(TorchFunctionMode):
    """Counts the values that are asked for, by the file of ours or of Composer's that wants them."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") in ASKING:
            frame = sys._getframe()
            while not {"micro_diffusion", "composer"} & set(Path(frame.f_code.co_filename).parts[:-1]):
                frame = frame.f_back
            ASKED[Path(frame.f_code.co_filename).name] += 1
        return function(*args, **(kwargs or {}))


class SecondStep(Callback):
    """Counts in the second step, up to the beginning of the third."""

    def __init__(self) -> None:
        self.asking = Asking()

    def batch_start(self, state, logger) -> None:
        if state.timestamp.batch.value == 1:
            self.asking.__enter__()
        elif state.timestamp.batch.value == 2:
            self.asking.__exit__(None, None, None)


def test_a_step_of_one_process_asks_for_what_composer_wants_and_whether_it_is_finite(tmp_path):
    make_latents(tmp_path, count=16)
    asking = f"+callbacks.asking._target_={__name__}.SecondStep"
    train_here(tmp_path, "exp_name=asking", "trainer.max_duration=3ba", "prompts.captions=[a red circle]", asking)
    assert {file: count for file, count in ASKED.items() if file not in ON_CPUS_ONLY} == {
        "nan_guard.py": 1,
        "trainer.py": 7,  # is there a batch, its size, its loss twice, samples, tokens and seconds of the step
    }
