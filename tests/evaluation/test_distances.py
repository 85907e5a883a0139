"""Distances against closed forms, known properties, and the numbers of torchmetrics."""

import math

import pytest
import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from micro_diffusion.evaluation.distances import (
    Moments,
    clip_discrepancy,
    clip_score,
    frechet_distance,
    kernel_distance,
    moments,
    precision_recall,
)


def normal(count: int, dim: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)) + shift


class Given(nn.Module):
    """A feature network of torchmetrics that takes features for images."""

    num_features = 8

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)[:, : self.num_features].float()


def as_images(features: torch.Tensor) -> torch.Tensor:
    """(N, 8) -> (N, 3, 2, 2), for a network that takes the numbers out again."""
    return nn.functional.pad(features, (0, 4)).reshape(-1, 3, 2, 2)


def test_frechet_distance_of_gaussians_is_the_closed_form():
    variances, others = torch.tensor([1.0, 4.0, 0.25]).double(), torch.tensor([9.0, 1.0, 0.25]).double()
    first = Moments(torch.zeros(3).double(), torch.diag(variances))
    second = Moments(torch.tensor([3.0, 0.0, 4.0]).double(), torch.diag(others))
    closed = 25 + float((variances.sqrt() - others.sqrt()).square().sum())
    assert frechet_distance(first, second) == pytest.approx(closed, rel=1e-12)
    turned = torch.linalg.qr(normal(3, 3, 0).double()).Q
    first, second = (Moments(turned @ m.mean, turned @ m.covariance @ turned.T) for m in (first, second))
    assert frechet_distance(first, second) == pytest.approx(closed, rel=1e-9)


def test_frechet_distance_of_equal_sets_is_0_even_with_fewer_images_than_features():
    for count in (10, 500):
        same = moments(normal(count, 64, 0))
        assert frechet_distance(same, same) == pytest.approx(0, abs=1e-6)


def test_numbers_are_those_of_torchmetrics():
    ours, real = normal(300, 8, 0, 0.3) * 1.5, normal(400, 8, 1)
    judge = FrechetInceptionDistance(feature=Given()).set_dtype(torch.float64)
    kernel = KernelInceptionDistance(feature=Given(), subsets=1, subset_size=300)
    for metric in (judge, kernel):
        metric.update(as_images(real[:300]), real=True)
        metric.update(as_images(ours), real=False)
    expected = float(judge.compute())
    assert frechet_distance(moments(ours), moments(real[:300])) == pytest.approx(expected, rel=1e-4)
    found = kernel_distance(ours, real[:300], subsets=1, subset_size=300)
    assert found[0] == pytest.approx(float(kernel.compute()[0]), rel=1e-4)


def test_kernel_distance_is_unbiased_and_grows():
    near, deviation = kernel_distance(normal(400, 8, 0), normal(400, 8, 1), subset_size=200)
    far, _ = kernel_distance(normal(400, 8, 0, 0.5), normal(400, 8, 1), subset_size=200)
    assert abs(near) < 3 * deviation < 0.1 < far
    with pytest.raises(ValueError, match="subsets of 1000 images cannot be taken from 400 and 400"):
        kernel_distance(normal(400, 8, 0), normal(400, 8, 1))


def test_clip_discrepancy_against_all_pairs():
    x, y = (nn.functional.normalize(normal(20, 6, seed).double(), dim=1) for seed in (0, 1))

    def kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.exp(-torch.cdist(a, b).square() / (2 * 10**2)).mean()

    expected = 1000 * float(kernel(x, x) + kernel(y, y) - 2 * kernel(x, y))
    assert clip_discrepancy(3 * x, y) == pytest.approx(expected, rel=1e-6)
    assert clip_discrepancy(x, x) == pytest.approx(0, abs=1e-9)


def test_precision_and_recall_tell_dropped_from_spurious_images():
    real = torch.cat([normal(50, 4, 0), normal(50, 4, 1, 20.0)])
    half = normal(50, 4, 2)
    assert precision_recall(real, real) == (1.0, 1.0)
    precision, recall = precision_recall(half, real)
    assert precision > 0.8
    assert recall <= 0.5
    assert precision_recall(normal(50, 4, 3, 99.0), real) == (0.0, 0.0)
    with pytest.raises(ValueError, match="3 and 100 images have no 3 neighbours"):
        precision_recall(half[:3], real)


def test_clip_score_is_a_mean_cosine():
    images = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    captions = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert clip_score(images, captions) == pytest.approx(100 * (1 + math.sqrt(0.5)) / 2)
    assert clip_score(images, -captions) == 0


def test_one_image_has_no_covariance():
    with pytest.raises(ValueError, match="1 image has no covariance"):
        moments(normal(1, 4, 0))
