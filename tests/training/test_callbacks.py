import json
import math
from types import SimpleNamespace

import pytest
import torch
from composer import Timestamp
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from micro_diffusion.training.callbacks.metrics_file import MetricsFile
from micro_diffusion.training.callbacks.tensorboard import TensorBoard
from micro_diffusion.training.checkpoints.resumption import NextDataAfterLoad


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
    NextDataAfterLoad().after_load(state, None)
    assert dataset.state == expected


def started_at(step):
    return SimpleNamespace(timestamp=Timestamp(batch=step))


def test_metrics_are_json_lines(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    file = MetricsFile(path=str(path))
    file.init(None, None)
    file.log_metrics({"loss": torch.tensor(0.5), "name": "text", "empty": torch.tensor(float("nan"))}, step=1)
    file.log_metrics({"name": "text"}, step=2)
    file.log_metrics({"up": float("inf"), "down": -float("inf")}, step=3)
    lines = [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]
    assert lines == [{"step": 1, "loss": 0.5, "empty": "nan"}, {"step": 3, "up": "inf", "down": "-inf"}]
    assert [float(lines[1][name]) for name in ("up", "down")] == [math.inf, -math.inf]


def test_a_resumed_run_replaces_the_metrics_after_its_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first = MetricsFile(path=str(path))
    first.fit_start(started_at(0), None)
    first.log_metrics({"loss": 1.0}, step=0)
    first.log_metrics({"eval": 2.0}, step=1)
    saved = first.state_dict()
    first.log_metrics({"loss": 3.0}, step=1)
    first.log_metrics({"loss": 4.0}, step=2)
    with path.open("a") as file:
        file.write('{"step": 3, "lo')
    written = path.read_text().splitlines(keepends=True)[:3]
    for start in (MetricsFile.fit_start, MetricsFile.eval_start):
        second = MetricsFile(path=str(path))
        second.load_state_dict(saved)
        start(second, started_at(1), None)
        assert second.state_dict() == saved
        second.log_metrics({"loss": 3.0}, step=1)
        MetricsFile.eval_start(second, started_at(1), None)
        assert path.read_text().splitlines(keepends=True) == written


def test_metrics_of_a_run_that_goes_on_in_another_folder_are_there_once(tmp_path):
    """Its checkpoint was fetched, but the file stayed where it began; then it is killed and resumed there."""
    path = tmp_path / "metrics.jsonl"
    for _ in range(2):
        file = MetricsFile(path=str(path))
        file.load_state_dict({"step": 4, "lines": 3})
        file.fit_start(started_at(4), None)
        file.log_metrics({"loss": 1.0}, step=4)
    assert path.read_text() == '{"step": 4, "loss": 1.0}\n'


def test_tensorboard_keeps_what_is_not_done_again(tmp_path):
    for start in (0, 1):
        board = TensorBoard(folder=str(tmp_path), flush_seconds=1)
        board.fit_start(started_at(start), None)
        if start == 0:
            board.log_metrics({"eval": 5.0, "loss": 1.0}, step=1)
        board.log_metrics({"loss": 2.0}, step=2)
        board.close(None, None)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("eval")] == [(1, 5.0)]
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 1.0), (2, 2.0)]


def test_tensorboard_gets_numbers_and_images_in_one_file(tmp_path):
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
