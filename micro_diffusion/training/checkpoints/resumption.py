"""From where a run goes on, and with which epoch."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from composer import Callback, Logger, State
from composer.utils import dist
from omegaconf import DictConfig

from micro_diffusion.training.checkpoints.files import check_none_lost, whole_checkpoints
from micro_diffusion.training.checkpoints.remote import RemoteCheckpoints
from micro_diffusion.training.checkpoints.run_folder import RunFolder
from micro_diffusion.training.distributed.machine_faults import GOES_ON


class OwnCheckpoints(NamedTuple):
    """folder: for checkpoints. there: those in it, oldest first, the last of them whole. remote: copies of them."""

    folder: Path
    there: list[Path]
    remote: RemoteCheckpoints | None


def own_checkpoints(run: RunFolder, *, autoresume: bool) -> OwnCheckpoints | None:
    """The checkpoints of a run, which the first rank reads; None where it keeps none.

    Args:
        run: its folder.
        autoresume: whether it goes on from the newest one, which then is fetched if only a copy is left.

    Raises:
        ValueError: when there were some, here or as copies, of which none is whole.
    """
    if run.checkpoints is None:
        return None
    remote = None if run.remote is None else RemoteCheckpoints(run.remote, run)
    found: list[list[Path]] = [[]]
    if dist.get_global_rank() == 0:
        if remote is not None and autoresume:
            remote.fetch_newest()
        found = [whole_checkpoints(run.checkpoints)]
        if not found[0]:
            check_none_lost(run.checkpoints)
    dist.broadcast_object_list(found)
    return OwnCheckpoints(run.checkpoints, found[0], remote)


def way_on(trainer: DictConfig) -> str:
    """What can be done when a training has stopped before its end, by the settings of its trainer."""
    if trainer.autoresume:
        return GOES_ON
    if trainer.save_folder is not None:
        return (
            "with trainer.autoresume=false it does not go on, but another exp_name may start from its last checkpoint "
            "with trainer.load_path"
        )
    return "with trainer.save_folder=null nothing is saved, so begin again with another exp_name"


class NextDataAfterLoad(Callback):
    """Corrects the place of the data in a checkpoint.

    Composer 0.32 asks the data set for its epoch before it begins the next one, so the order of the epoch that has
    just ended would be read again. And it counts samples, of which shorter batches within an epoch have another number
    on other ranks, so where there are such the place is told by the number of batches.
    """

    def after_load(self, state: State, logger: Logger) -> None:
        """Tell the training data set which epoch, or which batch of it, comes next."""
        epoch, batch = state.timestamp.epoch.value, state.timestamp.batch_in_epoch.value
        dataset = getattr(state.train_dataloader, "dataset", None)
        if dataset is None or not hasattr(dataset, "load_state_dict"):
            return
        if batch and len(getattr(dataset, "sizes", ())) > 1:
            place = dataset.place_after(batch)
        elif epoch and not batch:
            place = 0
        else:
            return
        dataset.load_state_dict({**dataset.state_dict(0, True), "epoch": epoch, "sample_in_epoch": place})
