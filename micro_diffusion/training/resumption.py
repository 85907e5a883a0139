"""Makes a run that resumes at the end of an epoch go on with the next one."""

from __future__ import annotations

from composer import Callback, Logger, State


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
