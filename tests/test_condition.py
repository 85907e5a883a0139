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


def test_the_image_and_its_level_stay_with_a_null_condition():
    text = condition(4)._replace(image=torch.randn(4, 3, 8, 8), image_level=torch.rand(4))
    for made in (text.null(), text.dropped(torch.ones(4, dtype=torch.bool))):
        assert made.image is text.image and made.image_level is text.image_level and made.tokens.abs().sum() == 0
    both = text.after_null()
    assert both.image is not None and torch.equal(both.image, torch.cat([text.image, text.image]))
    assert both.image_level is not None and torch.equal(both.image_level[4:], text.image_level)


def test_a_cast_leaves_the_level_exact():
    made = condition(2)._replace(image=torch.randn(2, 3, 8, 8), image_level=torch.rand(2)).to(torch.bfloat16)
    assert made.image is not None and made.image.dtype == made.tokens.dtype == torch.bfloat16
    assert made.image_level is not None and made.image_level.dtype == torch.float32
