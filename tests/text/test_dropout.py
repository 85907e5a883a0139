"""Caption dropout: right rate, reproducible, never in place, safe for infinities."""

from __future__ import annotations

import pytest
import torch

from micro_diffusion.batch import TextCondition
from micro_diffusion.text.dropout import drop_captions


def condition(batch: int) -> TextCondition:
    return TextCondition(torch.randn(batch, 3, 5), torch.tensor([[True, True, False]]).repeat(batch, 1))


def uniform(batch: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, generator=torch.Generator().manual_seed(seed))


def dropped_rows(text: TextCondition) -> torch.Tensor:
    return (text.tokens == 0).all(dim=2).all(dim=1)


def test_rate_and_whole_rows():
    text = condition(20_000)
    result = drop_captions(text, 0.1, uniform(20_000))
    dropped = dropped_rows(result)
    assert dropped.float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert torch.equal(result.tokens[~dropped], text.tokens[~dropped])
    assert result.mask is text.mask


def test_input_is_left_alone():
    text = condition(8)
    before = text.tokens.clone()
    drop_captions(text, 1.0, uniform(8))
    assert torch.equal(text.tokens, before)


def test_extremes():
    text = condition(50)
    assert torch.equal(drop_captions(text, 0.0, uniform(50)).tokens, text.tokens)
    assert dropped_rows(drop_captions(text, 1.0, uniform(50))).all()


def test_follows_the_numbers_alone():
    text = condition(100)
    numbers = uniform(100)
    state = torch.get_rng_state()
    assert torch.equal(dropped_rows(drop_captions(text, 0.5, numbers)), numbers < 0.5)
    assert torch.equal(torch.get_rng_state(), state)


def test_infinite_features_of_a_dropped_caption_become_zero():
    text = TextCondition(torch.full((4, 2, 3), torch.inf))
    assert (drop_captions(text, 1.0, uniform(4)).tokens == 0).all()


@pytest.mark.parametrize("probability", [-0.1, 1.5])
def test_bad_probability(probability):
    with pytest.raises(ValueError, match=str(probability)):
        drop_captions(condition(2), probability, uniform(2))
