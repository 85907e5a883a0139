"""rFID: that of the distances between the features, 0 for exact reconstructions, rising with their errors."""

import pytest
import torch

from micro_diffusion.evaluation.distances import frechet_distance, moments
from micro_diffusion.evaluation.features import open_network
from micro_diffusion.evaluation.reconstruction_distance import ReconstructionDistance
from micro_diffusion.sampling.pipeline import to_uint8

IMAGES = torch.rand(24, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def distance(made: torch.Tensor) -> float:
    metric = ReconstructionDistance(network="random_conv")
    for rows in (slice(0, 10), slice(10, 24)):
        metric.update(made[rows], IMAGES[rows])
    return float(metric.compute())


def test_it_is_the_frechet_distance_of_the_features():
    features = open_network("random_conv", folder="nowhere")
    made = IMAGES * 0.8
    expected = frechet_distance(*(moments(features(to_uint8(images))) for images in (made, IMAGES)))
    assert distance(made) == pytest.approx(expected, rel=1e-5)


def test_it_is_0_for_exact_reconstructions_and_rises_with_blur():
    blurred = [torch.nn.functional.avg_pool2d(IMAGES, side, 1, side // 2) for side in (3, 5)]
    exact, *worse = (distance(made) for made in (IMAGES, *blurred))
    assert abs(exact) < 1e-6
    assert exact + 1e-3 < worse[0] < worse[1]


def test_a_missing_network_is_an_error_at_once(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no weights-inception"):
        ReconstructionDistance(folder=tmp_path)
