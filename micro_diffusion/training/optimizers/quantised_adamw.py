"""AdamW of torchao with moments of 8 bits, as Composer and checkpoints want an optimizer. Needs torchao.

Blocks of 256 numbers share a scale (Dettmers et al. 2022, arXiv 2110.02861, section 2.1); parameters of fewer than
4,096 numbers, or of a number that is no multiple of 256, keep moments of their own type. A weight in bf16 is rounded up
or down at random, in proportion to its distance from both, so that small steps are not lost on average (Zamirai et al.
2020, arXiv 2010.06192).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torchao.optim import AdamW8bit
from torchao.optim.subclass_8bit import get_qmap_signed, get_qmap_unsigned

with unset_fake_temporarily():  # these tables cannot be made when the first step is one on tensors without data
    get_qmap_signed()
    get_qmap_unsigned()


class QuantisedAdamW(AdamW8bit):
    """torchao's AdamW8bit, whose random rounding follows from the step alone, and whose learning rates are numbers.

    On a GPU torch compiles its update, once for every shape of a parameter; on a CPU it runs as it is written.

    Args:
        params: groups as torch's optimizers take them.
        betas: decay of the first and second moments.
        eps: added to the root of the second moment.
    """

    def __init__(self, params: list[dict[str, Any]], *, betas: tuple[float, float], eps: float) -> None:
        super().__init__(params, betas=betas, eps=eps, bf16_stochastic_round=True)
        for group in self.param_groups:
            group["lr"] = float(group["lr"])

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient."""
        rates = [group["lr"] for group in self.param_groups]
        devices = {p.device for group in self.param_groups for p in group["params"] if p.device.type == "cuda"}
        with torch.random.fork_rng(devices, device_type="cuda"), _as_written(bool(devices)):
            torch.manual_seed(self._steps())
            try:
                for group, rate in zip(self.param_groups, rates, strict=True):
                    group["lr"] = torch.tensor(rate)  # a number would be compiled in, and each one anew
                return super().step(closure)
            finally:
                for group, rate in zip(self.param_groups, rates, strict=True):
                    group["lr"] = rate

    def _steps(self) -> int:
        """Taken so far."""
        return max((int(state["step"]) for state in self.state.values()), default=0)


def _as_written(compiles: bool) -> AbstractContextManager[object]:
    """Without the compiler, for which a CPU would need another one."""
    return nullcontext() if compiles else torch.compiler.set_stance("force_eager")
