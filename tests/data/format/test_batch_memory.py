"""A batch's memory is used again when the batch is gone, and never before."""

import pickle

import pytest
import torch

from micro_diffusion.data.format.batch_memory import CaptionMemory


def written(memory, rows):
    """A tensor whose rows in use are full of ones."""
    tensor = memory.tensor(rows, 4, 2)
    assert tensor.shape == (len(rows), 4, 2) and tensor.dtype == torch.float16
    for caption, used in zip(tensor, rows, strict=True):
        assert not caption[used:].any()
        caption[:used] = 1
    return tensor


def test_memory_is_given_again_with_zeros_after_the_last_rows():
    memory = CaptionMemory()
    place = written(memory, [4, 1, 2]).data_ptr()
    for rows in ([2, 3, 0], [4, 4, 4], [0, 0, 0]):
        assert written(memory, rows).data_ptr() == place
    assert written(memory, [1]).data_ptr() != place


@pytest.mark.parametrize("hold", [lambda t: t, lambda t: t[1:, 0], lambda t: t.numpy()[1:], lambda t: t.view(-1).data])
def test_memory_that_is_looked_at_stays_as_it_is(hold):
    memory = CaptionMemory()
    held = hold(written(memory, [4, 4]))
    for _ in range(5):
        written(memory, [0, 0])
    assert (held == 1).all()


def test_two_batches_take_turns_and_more_are_forgotten():
    memory = CaptionMemory()
    batch, places = None, set()
    for _ in range(6):
        batch = written(memory, [1, 2])  # the one before it is held until this one is there
        places.add(batch.data_ptr())
    assert len(places) == 2
    held = [written(memory, [1, 2]) for _ in range(6)]
    assert len({tensor.data_ptr() for tensor in held}) == 6 and len(memory._rooms) == 2


def test_a_copy_for_another_process_begins_without_memory():
    memory = CaptionMemory()
    held = written(memory, [1])
    assert pickle.loads(pickle.dumps(memory))._rooms == [] and held.any()
