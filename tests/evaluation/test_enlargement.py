"""The score of super-resolution: its ratio is the known one, and better images score better."""

import math

import pytest
import torch
from torch.nn import functional

from micro_diffusion.evaluation.enlargement import enlargement_report, psnr


def test_the_ratio_is_that_of_the_error():
    true = torch.full((2, 3, 4, 4), 100, dtype=torch.uint8)
    assert psnr(true + 5, true) == pytest.approx(20 * math.log10(255 / 5))
    assert abs(psnr(true, true) - 100) < 1e-3


def test_a_nearer_image_scores_higher_and_the_grid_has_four_rows():
    def repeated(captions, small):
        assert len(captions) == len(small) == 3
        return functional.interpolate(small.float(), scale_factor=2.0).to(torch.uint8)

    report, grid = enlargement_report(repeated, side=32, factor=2, count=3, seed=0)
    assert 10 < report["psnr_db"]["model"] < report["psnr_db"]["bicubic"] < 60
    assert grid.height > 4 * 32
