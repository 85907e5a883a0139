"""Patch masks: what is kept, drawn evenly, and put back where it was."""

import pytest
import torch

from micro_diffusion.backbone.masking import keep_tokens, kept_patches, random_keep, restore_tokens, visible


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_tokens_go_back_to_their_places():
    tokens = torch.randn(4, 16, 3)
    keep = random_keep(uniform(4, 16), 0.75)
    assert keep.shape == (4, 4)
    restored = restore_tokens(keep_tokens(tokens, keep), keep, 16)
    torch.testing.assert_close(restored, tokens * visible(keep, 16)[:, :, None])


def test_every_patch_is_kept_equally_often_and_once():
    keep = random_keep(uniform(20_000, 16), 0.75)
    shown = visible(keep, 16)
    assert (shown.sum(dim=1) == 4).all()
    torch.testing.assert_close(shown.float().mean(dim=0), torch.full((16,), 0.25), atol=0.015, rtol=0)


def test_masks_follow_from_the_numbers_alone():
    first, again, other = (random_keep(uniform(8, 64, seed=s), 0.5) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_no_mask_keeps_all():
    assert torch.equal(random_keep(uniform(4, 16), 0.0).sort(dim=1).values, torch.arange(16).expand(4, 16))


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5, float("nan")])
def test_ratios_outside_of_the_range_are_refused(ratio):
    with pytest.raises(ValueError, match=f"mask ratio is {ratio}"):
        kept_patches(16, ratio)


def test_a_ratio_that_keeps_no_patch_is_refused():
    with pytest.raises(ValueError, match="keeps none of 16 patches"):
        kept_patches(16, 0.99)


@pytest.mark.parametrize(("patches", "ratio", "kept"), [(256, 0.75, 64), (10, 0.1, 9), (100, 0.29, 71)])
def test_count_of_kept_patches(patches, ratio, kept):
    assert kept_patches(patches, ratio) == kept
