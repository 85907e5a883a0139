"""Thresholding of the clean image against the procedure of the Imagen paper."""

import pytest
import torch

from micro_diffusion.sampling.thresholding import dynamic_thresholding, static_thresholding

CLEAN = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.2, 1.0, 5.0]).view(
    3, 1, 1, 1
)


def wrapped(wrapper):
    return wrapper(lambda x, sigma: x)(CLEAN, 1.0)


@pytest.mark.parametrize("limit", [1.0, 2.0])
def test_dynamic_thresholding_follows_the_paper_for_each_sample(limit):
    made = wrapped(dynamic_thresholding(0.9, limit))
    for clean, thresholded in zip(CLEAN, made, strict=True):
        reach = max(limit, clean.abs().flatten().quantile(0.9).item())
        torch.testing.assert_close(thresholded, clean.clamp(-reach, reach) / reach * limit)
    assert torch.equal(made[0], CLEAN[0])  # within the range already
    assert made.abs().max() <= limit


def test_static_thresholding_clips():
    assert torch.equal(wrapped(static_thresholding()), CLEAN.clamp(-1, 1))


@pytest.mark.parametrize("percentile", [0, 1, 95])
def test_impossible_settings_are_refused(percentile):
    with pytest.raises(ValueError, match=f"percentile of dynamic thresholding is {percentile}"):
        dynamic_thresholding(percentile)
    with pytest.raises(ValueError, match="limit of thresholding is 0"):
        static_thresholding(0)
