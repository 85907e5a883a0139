"""Distances between two sets of images, each given by the features of its images.

Legend: N generated images, M real ones, D features of an image.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

BLOCK = 4096
"""Rows of a matrix of all pairs that are in memory at once."""


class Moments(NamedTuple):
    """Mean (D,) and covariance (D, D) of features, float64."""

    mean: Tensor
    covariance: Tensor


def moments(features: Tensor) -> Moments:
    """(N, D) -> their mean and unbiased covariance.

    Raises:
        ValueError: for fewer than two images.
    """
    if len(features) < 2:
        raise ValueError(f"{len(features)} image has no covariance; give at least 2 images")
    exact = features.double()
    return Moments(exact.mean(dim=0), torch.cov(exact.T).reshape(exact.shape[1], -1))


def frechet_distance(generated: Moments, real: Moments) -> float:
    """|m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^½), the squared Wasserstein-2 distance of two Gaussians.

    With Inception's features it is the FID of Heusel et al. 2017 (eq. 6), with DINOv2's the FD-DINOv2 of Stein et al.
    2023. The trace of (C1 C2)^½ is the sum of the singular values of C1^½ C2^½, which stays real and exact where
    covariances are singular.
    """
    cross = torch.linalg.svdvals(_root(generated.covariance) @ _root(real.covariance)).sum()
    shift = (generated.mean - real.mean).square().sum()
    return float(shift + generated.covariance.trace() + real.covariance.trace() - 2 * cross)


def _root(covariance: Tensor) -> Tensor:
    """The symmetric square root of a symmetric matrix without negative eigenvalues."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


def kernel_distance(
    generated: Tensor, real: Tensor, *, subsets: int = 100, subset_size: int = 1000, seed: int = 2020
) -> tuple[float, float]:
    """KID of Bińkowski et al. 2018: the unbiased squared maximum mean discrepancy with the kernel (x·y/D + 1)³.

    Args:
        generated: (N, D).
        real: (M, D).
        subsets: pairs of random subsets that are averaged.
        subset_size: images in each, at most N and M. Default subsets, size and seed are torch-fidelity's.
        seed: of the subsets.

    Returns:
        Mean and standard deviation over the subsets.

    Raises:
        ValueError: when a subset would be larger than a set, or have fewer than two images.
    """
    if not 2 <= subset_size <= min(len(generated), len(real)):
        raise ValueError(
            f"subsets of {subset_size} images cannot be taken from {len(generated)} and {len(real)}; set the size to "
            "at least 2 and at most the smaller number"
        )
    ours, theirs = generated.double().numpy(), real.double().numpy()
    random = np.random.RandomState(seed)  # the generator and order of torch-fidelity, so that numbers are equal
    estimates = []
    for _ in range(subsets):
        x = ours[random.choice(len(ours), subset_size, replace=False)]
        y = theirs[random.choice(len(theirs), subset_size, replace=False)]
        within = sum(_without_diagonal(_cubic(z, z)) for z in (x, y)) / (subset_size * (subset_size - 1))
        estimates.append(within - 2 * _cubic(x, y).mean())
    return float(np.mean(estimates)), float(np.std(estimates))


def _cubic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _without_diagonal(kernel: np.ndarray) -> float:
    return float(kernel.sum() - np.trace(kernel))


def clip_discrepancy(generated: Tensor, real: Tensor, *, sigma: float = 10.0, scale: float = 1000.0) -> float:
    """CMMD of Jayasumana et al. 2024: 1000 times the squared discrepancy with the kernel exp(-|x - y|² / 2σ²).

    Features are CLIP's image embeddings, brought to length 1. Like the authors' program it counts the pairs of an
    image with itself, so that equal sets are exactly 0 apart.

    Args:
        generated: (N, D).
        real: (M, D).
        sigma: width of the kernel.
        scale: of the result, for people.
    """
    x, y = (torch.nn.functional.normalize(z.double(), dim=1) for z in (generated, real))
    within = _mean_gaussian(x, x, sigma) + _mean_gaussian(y, y, sigma)
    return float(scale * (within - 2 * _mean_gaussian(x, y, sigma)))


def _mean_gaussian(x: Tensor, y: Tensor, sigma: float) -> Tensor:
    """Mean of the kernel over all pairs of rows, whose length is 1, so that |x - y|² = 2 - 2 x·y."""
    sums = [((rows @ y.T - 1) / sigma**2).exp().sum() for rows in x.split(BLOCK)]
    return torch.stack(sums).sum() / (len(x) * len(y))


def precision_recall(generated: Tensor, real: Tensor, *, neighbours: int = 3) -> tuple[float, float]:
    """Improved precision and recall of Kynkäänniemi et al. 2019 (eq. 1 and 2).

    A set's manifold is the union of balls around its images that reach to the k-th nearest other one. Precision is the
    share of generated images within the manifold of real ones, recall the share of real ones within that of generated.

    Args:
        generated: (N, D).
        real: (M, D).
        neighbours: k.

    Raises:
        ValueError: when a set has no k other images.
    """
    if neighbours >= min(len(generated), len(real)):
        raise ValueError(
            f"{len(generated)} and {len(real)} images have no {neighbours} neighbours each; give more images"
        )
    return _inside(generated, real, neighbours), _inside(real, generated, neighbours)


def _inside(points: Tensor, manifold: Tensor, neighbours: int) -> float:
    """The share of points that lie in a ball of the manifold."""
    # the nearest of all is the image itself
    reach = torch.cat([torch.cdist(rows, manifold).kthvalue(neighbours + 1).values for rows in manifold.split(BLOCK)])
    inside = [(torch.cdist(rows, manifold) <= reach).any(dim=1) for rows in points.split(BLOCK)]
    return float(torch.cat(inside).double().mean())


def clip_score(images: Tensor, captions: Tensor) -> float:
    """CLIP score of Hessel et al. 2021 as torchmetrics gives it: 100 times the mean cosine, at least 0.

    images, captions: CLIP's embeddings (N, D) of images and of their captions.
    """
    cosines = torch.nn.functional.cosine_similarity(images.double(), captions.double(), dim=1)
    return max(float(100 * cosines.mean()), 0.0)
