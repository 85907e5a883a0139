"""Caption dropout: whole captions, never in place, safe for infinities."""

from __future__ import annotations

import torch

from micro_diffusion.condition import Condition


def condition(batch: int) -> Condition:
    return Condition(torch.randn(batch, 3, 5), torch.tensor([[True, True, False]]).repeat(batch, 1))


def test_whole_rows():
    text, dropped = condition(4), torch.tensor([True, False, True, False])
    result = text.dropped(dropped)
    assert torch.equal((result.tokens == 0).flatten(1).all(dim=1), dropped)
    assert torch.equal(result.tokens[~dropped], text.tokens[~dropped])
    assert result.mask is text.mask


def test_input_is_left_alone():
    text = condition(8)
    before = text.tokens.clone()
    text.dropped(torch.ones(8, dtype=torch.bool))
    assert torch.equal(text.tokens, before)


def test_infinite_features_of_a_dropped_caption_become_zero():
    text = Condition(torch.full((4, 2, 3), torch.inf))
    assert (text.dropped(torch.ones(4, dtype=torch.bool)).tokens == 0).all()
