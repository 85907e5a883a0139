"""When a training draws its random numbers, which follow from (seed, step, place in the batch)."""

from __future__ import annotations

from composer import Callback, Logger, State
from composer.devices import Device, DeviceGPU
from composer.utils import dist
from torch import Tensor

from micro_diffusion.training.seeded_random import Draws
from micro_diffusion.training.trainable import Batch, trained_model


class SeededDraws(Callback):
    """Lets the model draw for each whole batch, before Composer cuts it into microbatches.

    Args:
        seed: of the run; any integer.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def after_dataloader(self, state: State, logger: Logger) -> None:
        """Draw for a training step."""
        state.batch = _pinned(trained_model(state.model).draw(state.batch, self._draws(state, "train")), state.device)

    def eval_batch_start(self, state: State, logger: Logger) -> None:
        """Draw for an evaluation batch: the same for its n-th batch at every evaluation, whatever the run's seed."""
        draws = self._draws(state, "eval")
        draws = draws._replace(total=draws.total - _repeats(state))
        state.batch = _pinned(trained_model(state.model).draw_eval(state.batch, draws), state.device)

    def _draws(self, state: State, purpose: str) -> Draws:
        timestamp = state.timestamp if purpose == "train" else state.eval_timestamp
        size = len(next(iter(state.batch.values())))
        rank, ranks = dist.get_global_rank(), dist.get_world_size()
        number, elapsed = timestamp.batch.value, state.get_elapsed_duration()
        progress = 0.0 if elapsed is None else float(elapsed.value)
        seed = self.seed if purpose == "train" else 0
        return Draws.of(seed, purpose, number, size=size, rank=rank, ranks=ranks, step=number, progress=progress)


def _repeats(state: State) -> int:
    """Samples of an evaluation batch on all ranks that only fill up ranks; the last places are theirs."""
    if "repeated" not in state.batch:
        return 0
    count = state.device.tensor_to_device(state.batch["repeated"].sum()[None])
    dist.all_reduce(count)
    return int(count)


def _pinned(batch: Batch, device: Device) -> Batch:
    """In the memory of the loader's own tensors, from which a GPU copies while the host goes on."""
    if not isinstance(device, DeviceGPU):
        return batch
    return {key: value.pin_memory() if isinstance(value, Tensor) else value for key, value in batch.items()}
