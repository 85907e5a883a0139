"""The learning rate of one cycle: a rise from a fraction to the largest rate, and a longer fall to almost nothing.

Smith & Topin 2018, "Super-convergence". Composer has no such schedule, and that of torch sets learning rates itself,
and the first moment's decay with them, which here stays as configured.
"""

from __future__ import annotations

import itertools
import math

from composer import State, TimeUnit

from micro_diffusion.bounds import Fraction, OpenFraction


class OneCycle:
    """Factor of `optimizer.lr`, the largest rate, along half cosines from one turning point to the next.

    The points lie as those of torch.optim.lr_scheduler.OneCycleLR. They follow steps, also where the training's length
    is in epochs.

    Args:
        rise: share of the training until the largest rate, inside (0, 1); with `symmetric` below a half.
        start: rate of the first step, over the largest one.
        end: rate of the last step, over the largest one.
        symmetric: fall back to the first rate in as many steps as it rose, and then to the last one.

    Raises:
        ValueError: for a symmetric cycle whose rise takes half of the training or more.
    """

    def __init__(
        self, *, rise: OpenFraction = 0.3, start: Fraction = 0.04, end: Fraction = 4e-6, symmetric: bool = False
    ) -> None:
        if symmetric and rise >= 0.5:
            raise ValueError(f"schedule.rise is {rise}, which leaves no time to fall as long; set it below 0.5")
        self.rise = rise
        self.start = start
        self.end = end
        self.symmetric = symmetric

    def __call__(self, state: State, ssr: float = 1.0) -> float:
        """The factor at a step; `ssr` stretches the cycle with the training, whose end already has it."""
        return self.factor(state.timestamp.batch.value, steps_of(state))

    def factor(self, step: int, steps: int) -> float:
        """The factor at a step, from 0, of so many."""
        top = self.rise * steps - 1
        points = [(0.0, self.start), (top, 1.0)]
        points += [(2 * top, self.start)] if self.symmetric else []
        points += [(steps - 1, self.end)]
        for (begin, low), (finish, high) in itertools.pairwise(points):
            if step <= finish:
                share = (step - begin) / (finish - begin) if finish > begin else 1.0
                return high + (low - high) * (1 + math.cos(math.pi * share)) / 2
        return self.end


def steps_of(state: State) -> int:
    """The steps of a whole training.

    Raises:
        ValueError: when its length is neither in steps nor in epochs of known length.
    """
    end, epoch = state.max_duration, state.dataloader_len
    if end is not None and end.unit == TimeUnit.BATCH:
        return end.value
    if end is not None and end.unit == TimeUnit.EPOCH and epoch is not None:
        return end.value * epoch.value
    length = "null" if end is None else end.to_timestring()
    raise ValueError(
        f"schedule.one_cycle needs the number of steps, which trainer.max_duration={length} does not say; set it in "
        "steps, such as 10000ba"
    )
