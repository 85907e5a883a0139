import json
from types import SimpleNamespace

import pytest
import torch
from composer import Timestamp
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from micro_diffusion.training.metrics_file import MetricsFile
from micro_diffusion.training.resumption import NextEpochAfterLoad
from micro_diffusion.training.tensorboard import TensorBoard


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


def started_at(step):
    return SimpleNamespace(timestamp=Timestamp(batch=step))


def test_metrics_are_json_lines(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    file = MetricsFile(path=str(path))
    file.init(None, None)
    file.log_metrics({"loss": torch.tensor(0.5), "name": "text", "empty": float("nan")}, step=1)
    file.log_metrics({"name": "text"}, step=2)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"step": 1, "loss": 0.5}]


def test_a_resumed_run_replaces_the_metrics_after_its_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 1}\n{"step": 2, "loss": 2}\n{"step": 3, "lo')
    file = MetricsFile(path=str(path))
    file.fit_start(started_at(1), None)
    file.log_metrics({"loss": 4.0}, step=2)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 1, "loss": 1},
        {"step": 2, "loss": 4.0},
    ]


def test_tensorboard_gets_numbers_and_pictures_in_one_file(tmp_path):
    board = TensorBoard(folder=str(tmp_path), flush_seconds=1)
    board.log_metrics({"too early": 1.0}, step=0)
    board.fit_start(started_at(0), None)
    for step in range(3):
        board.log_metrics({"loss": torch.tensor(0.5 + step), "name": "text"}, step=step)
    board.log_images([torch.zeros(3, 4, 4, dtype=torch.uint8)] * 2, name="samples", step=2)
    board.close(None, None)
    assert len(list(tmp_path.iterdir())) == 1
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(0, 0.5), (1, 1.5), (2, 2.5)]
    assert events.Tags()["images"] == ["samples/0", "samples/1"] or "samples" in events.Tags()["images"]
