"""Thresholding: images within [-1, 1], and untouched where they were so already."""

import numpy as np
import pytest
import torch

from micro_diffusion.sampling.thresholding import DynamicThresholding, StaticThresholding, quantile_of_rows


def test_images_within_the_range_stay_as_they_are():
    x = torch.rand(2, 3, 4, 4) * 2 - 1
    for thresholding in (StaticThresholding(), DynamicThresholding(quantile=0.5)):
        assert torch.equal(thresholding(lambda x, sigma: x)(x, 1.0), x)


def test_each_image_is_divided_by_its_own_quantile():
    x = torch.randn(2, 3, 8, 8) * torch.tensor([1.5, 6.0]).view(2, 1, 1, 1)
    y = DynamicThresholding(quantile=0.9)(lambda x, sigma: x)(x, 1.0)
    for before, after in zip(x.numpy(), y.numpy(), strict=True):
        limit = max(1.0, np.quantile(np.abs(before), 0.9))
        np.testing.assert_allclose(after, np.clip(before, -limit, limit) / limit, rtol=1e-5)
    assert (StaticThresholding()(lambda x, sigma: x)(x, 1.0) != y).any()


@pytest.mark.parametrize("quantile", [0.01, 0.37, 0.95, 1.0])
def test_the_quantile_is_that_of_numpy(quantile):
    rows = torch.randn(3, 50)
    np.testing.assert_allclose(quantile_of_rows(rows, quantile), np.quantile(rows, quantile, axis=1), rtol=1e-5)


@pytest.mark.parametrize("quantile", [0.0, 1.5, float("nan")])
def test_no_other_quantile_is_taken(quantile):
    with pytest.raises(ValueError, match="thresholding.quantile"):
        DynamicThresholding(quantile=quantile)
