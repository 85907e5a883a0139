"""From where a run goes on, and with which epoch."""

from __future__ import annotations

from pathlib import Path

from composer import Callback, Logger, State
from composer.utils import dist
from omegaconf import DictConfig

from micro_diffusion.training.checkpoint_files import whole_checkpoints


def is_local(folder: str | None) -> bool:
    """Whether checkpoints go into a folder of this machine; Composer has its own saver for remote ones."""
    return folder is not None and "://" not in folder


def own_checkpoints(trainer: DictConfig) -> list[Path]:
    """The checkpoints of a run in its local folder, oldest first, the last of them whole; the first rank reads them."""
    if not is_local(trainer.save_folder):
        return []
    found = [whole_checkpoints(Path(trainer.save_folder)) if dist.get_global_rank() == 0 else []]
    dist.broadcast_object_list(found)
    return found[0]


class NextEpochAfterLoad(Callback):
    """Corrects the data set's epoch in a checkpoint that was written between two epochs.

    Composer 0.32 asks the data set for its epoch before it begins the next one, so the order of the epoch that has
    just ended would be read again.
    """

    def after_load(self, state: State, logger: Logger) -> None:
        """Tell the training data set which epoch comes next."""
        epoch = state.timestamp.epoch.value
        dataset = getattr(state.train_dataloader, "dataset", None)
        if dataset is None or not hasattr(dataset, "load_state_dict"):
            return
        if epoch == 0 or state.timestamp.batch_in_epoch.value:
            return
        dataset.load_state_dict({**dataset.state_dict(0, True), "epoch": epoch, "sample_in_epoch": 0})
