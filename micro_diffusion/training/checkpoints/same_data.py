"""A run goes on with the data it has learned from so far."""

from __future__ import annotations

from typing import Any

from composer import Callback, State

from micro_diffusion.training.checkpoints.changes import Change

PATH = "train_loader.path"
"""What `accept_changes` names for other data, be they at another path or at the same."""


class SameData(Callback):
    """Keeps in every checkpoint what identifies the training data, and compares it when one is loaded.

    Args:
        data: what identifies them, such as the digest of their index; one text, which a checkpoint holds whole.
        accepted: whether the run goes on with other data.
    """

    def __init__(self, *, data: str, accepted: bool) -> None:
        self._data, self._accepted = data, accepted
        self.changes: list[Change] = []

    def state_dict(self) -> dict[str, Any]:
        """What the checkpoint was trained on."""
        return {"data": self._data}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Compare.

        Raises:
            ValueError: when these are other data, which are not accepted; says which.
        """
        if state["data"] == self._data:
            return
        self.changes = [Change(f"data of {PATH}", state["data"], self._data)]
        if not self._accepted:
            raise ValueError(
                f"the checkpoint was trained on other data ({state['data']}) than {PATH} holds now ({self._data}); put "
                f"those back, or choose another exp_name, or accept_changes=[{PATH}]"
            )


def changed_data(state: State) -> list[Change]:
    """The change of the data, if there was one when the checkpoint was loaded."""
    return [change for callback in state.callbacks if isinstance(callback, SameData) for change in callback.changes]
