"""Faults that torch words in its own way become sentences; everything else stays what it is."""

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from micro_diffusion.training.config_checks.errors import one_sentence_errors, sentence
from micro_diffusion.training.distributed.machine_faults import machine_fault, way_on_known


class Broken(Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise FileNotFoundError("the data folder x lacks its shard y; make it again")


def test_an_error_of_a_loader_worker_is_its_own_message():
    with pytest.raises(FileNotFoundError) as caught:
        next(iter(DataLoader(Broken(), num_workers=1)))
    assert "Traceback" in str(caught.value)
    assert machine_fault(caught.value) == "the data folder x lacks its shard y; make it again"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("DataLoader worker (pid 4711) is killed by signal: Killed. ", "a loader worker (process 4711) was killed"),
        ("DataLoader worker (pid(s) 4711, 12) exited unexpectedly", "a loader worker (process 4711, 12) was killed"),
        ("[tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:58652", "another rank of this job has ended"),
        ("The train loop failed with an internal microbatch of size 1.The GPU", "does not hold a single sample"),
    ],
)
def test_a_known_fault_is_one_sentence(text, expected, capsys):
    with pytest.raises(SystemExit, match="1"), one_sentence_errors():
        raise RuntimeError(text)
    assert expected in capsys.readouterr().err.splitlines()[0]


def test_a_fault_promises_only_what_its_training_keeps():
    for error in (RuntimeError("Connection closed by peer"), FloatingPointError("the loss is nan")):
        assert sentence(error).endswith("; the same command goes on from the last checkpoint")
        with pytest.raises(type(error)), way_on_known("nothing is saved"):
            raise error
        assert sentence(error).endswith("; nothing is saved")


def test_an_unknown_error_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), one_sentence_errors():
        torch.mm(torch.zeros(2, 3), torch.zeros(2, 3))
