import json
from types import SimpleNamespace

import pytest
import torch
from composer import Timestamp

from micro_diffusion.training.metrics_file import MetricsFile
from micro_diffusion.training.nan_guard import NaNGuard
from micro_diffusion.training.resumption import NextEpochAfterLoad


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_training(loss):
    state = SimpleNamespace(
        loss=torch.tensor(loss),
        batch={"caption": ["a red circle"]},
        timestamp=Timestamp(epoch=2, batch=12, batch_in_epoch=3),
    )
    with pytest.raises(
        FloatingPointError,
        match=r"the loss is (nan|inf) at step 12 \(batch 3 of epoch 2, rank 0, first caption 'a red circle'\); lower",
    ):
        NaNGuard().after_loss(state, None)


def test_a_finite_loss_passes():
    NaNGuard().after_loss(SimpleNamespace(loss=torch.tensor(1.0)), None)


class Dataset:
    def __init__(self):
        self.state = {"epoch": 0, "sample_in_epoch": 7, "shuffle_seed": 3}

    def state_dict(self, num_samples, from_beginning):
        return dict(self.state)

    def load_state_dict(self, state):
        self.state = state


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (Timestamp(epoch=1, batch=4), {"epoch": 1, "sample_in_epoch": 0, "shuffle_seed": 3}),
        (Timestamp(epoch=1, batch=6, batch_in_epoch=2), {"epoch": 0, "sample_in_epoch": 7, "shuffle_seed": 3}),
        (Timestamp(), {"epoch": 0, "sample_in_epoch": 7, "shuffle_seed": 3}),
    ],
)
def test_data_go_on_with_the_next_epoch_between_epochs_only(time, expected):
    dataset = Dataset()
    state = SimpleNamespace(timestamp=time, train_dataloader=SimpleNamespace(dataset=dataset))
    NextEpochAfterLoad().after_load(state, None)
    assert dataset.state == expected


def test_metrics_are_appended_as_json_lines(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    for step in (1, 2):
        file = MetricsFile(path=str(path))
        file.init(None, None)
        file.log_metrics({"loss": torch.tensor(0.5), "name": "text", "empty": float("nan")}, step=step)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 1, "loss": 0.5},
        {"step": 2, "loss": 0.5},
    ]
