"""What a GPU's memory does not hold at once is taken in halves, by all ranks together, and the run goes on."""

from __future__ import annotations

from typing import Any

import torch
from composer import Algorithm, Event, Logger, State
from composer.core import Precision
from composer.distributed.shared_utils import generate_oom_hook
from composer.utils import dist
from torch.nn.parallel import DistributedDataParallel
from torchmetrics import Metric

from micro_diffusion.training.distributed.averaged_gradients import GradientsOfAllRanks
from micro_diffusion.training.distributed.sharding import end_backward

TRIAL = 3
"""Steps in which a microbatch shows that it fits; from the second on, the optimizer's moments are there too."""


class SmallerMicrobatches(GradientsOfAllRanks):
    """Halves the microbatch when a rank runs out of memory in a step, and takes the step again on all of them.

    Composer 0.32 does so for one process. Among several, a rank that fails while DDP exchanges gradients leaves the
    others waiting. So while a microbatch is on trial, in the first steps of a run and after each halving or evaluation,
    gradients stay on their rank until all ranks have theirs, and are then averaged at once. After the trial DDP
    exchanges them during the backward pass again, and lack of memory is an error.

    It always is one for several ranks that share a network, since they need each other within a step; for several ranks
    in fp16, whose scaler looks at the gradients before they are averaged; and in the optimizer, which may have changed
    some weights.

    A single process asks nobody whether memory is lacking, since it would have to wait for its GPU to hear the answer.
    """

    def __init__(self) -> None:
        self._steps_left = TRIAL
        self._microbatch: float | None = None

    def match(self, event: Event, state: State) -> bool:
        """Runs around steps, and in a single process around Composer's question to the others after a forward pass."""
        if event in (Event.AFTER_FORWARD, Event.BEFORE_LOSS):
            return dist.get_world_size() == 1
        return event in (Event.BATCH_START, Event.BEFORE_TRAIN_BATCH, Event.AFTER_TRAIN_BATCH, Event.EVAL_END)

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        """Try, agree, average."""
        if event == Event.EVAL_END:
            self._steps_left = TRIAL  # it has cut the free memory into other pieces
        elif event == Event.BATCH_START:
            self._microbatch = state.device_train_microbatch_size
            state.auto_microbatching = self._is_on_trial(state)
            if isinstance(state.model, DistributedDataParallel):
                state.model.require_backward_grad_sync = not state.auto_microbatching  # as in its `no_sync`
                state.model.broadcast_buffers = False  # constants, for which it would wait within a forward pass
        elif event == Event.BEFORE_TRAIN_BATCH:
            if self._microbatch != state.device_train_microbatch_size:
                end_backward(state.model)
        elif event in (Event.AFTER_FORWARD, Event.BEFORE_LOSS):
            state.auto_microbatching = event == Event.BEFORE_LOSS
        elif state.auto_microbatching:
            if dist.get_world_size() > 1:
                generate_oom_hook(state.device)()  # raises here what another rank has met within its last microbatch
            state.auto_microbatching = False
            fits = self._microbatch == state.device_train_microbatch_size
            self._steps_left = self._steps_left - 1 if fits else TRIAL
            average_over_ranks(state)

    def _is_on_trial(self, state: State) -> bool:
        if dist.get_world_size() == 1:
            return True
        return self._steps_left > 0 and state.fsdp_config is None and state.precision != Precision.AMP_FP16


class SmallerEvaluations(Algorithm):
    """Halves the microbatch of an evaluation likewise; its ranks do not need each other, unless they are sharded."""

    def __init__(self) -> None:
        self._microbatch: float | None = None
        self._counted: list[tuple[Metric, dict[str, Any]]] = []

    def match(self, event: Event, state: State) -> bool:
        """Runs around the batches of an evaluation."""
        return event in (Event.EVAL_BATCH_START, Event.EVAL_BEFORE_FORWARD) and state.fsdp_config is None

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        """Forget what a batch has added to the metrics when it is taken again."""
        evaluator = next(some for some in state.evaluators if some.label == state.dataloader_label)
        if event == Event.EVAL_BATCH_START:
            evaluator.auto_microbatching = True
            metrics = state.eval_metrics[evaluator.label].values()
            self._counted = [(metric, copied(metric.metric_state)) for metric in metrics]
        elif self._microbatch != evaluator.device_eval_microbatch_size:
            for metric, before in self._counted:
                for name, value in copied(before).items():
                    setattr(metric, name, value)
        self._microbatch = evaluator.device_eval_microbatch_size


def average_over_ranks(state: State) -> None:
    """Average all gradients, each of which so far comes from this rank's samples alone."""
    gradients = [p.grad for p in state.model.parameters() if p.grad is not None]
    if dist.get_world_size() > 1:
        torch._foreach_div_(gradients, dist.get_world_size())
        for gradient in gradients:
            torch.distributed.all_reduce(gradient)


def copied(state: dict[str, Any]) -> dict[str, Any]:
    """A metric's tensors, and lists of tensors, which further updates leave alone."""
    return {name: list(value) if isinstance(value, list) else value.clone() for name, value in state.items()}
