"""Copies of training images are found, and independent images are not taken for copies."""

from __future__ import annotations

import torch

from micro_diffusion.evaluation.nearest import copied, nearest


def noise(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)


def test_the_nearest_image_and_its_distance():
    training = noise(20, seed=0)
    changed = training[[7, 3]].clone()
    changed[0, 0, 0, 0] = training[7, 0, 0, 0] ^ 255
    found = nearest(changed, training)
    assert found.index.tolist() == [7, 3]
    expected = abs(2 * int(training[7, 0, 0, 0]) - 255) / 255 / (3 * 8 * 8) ** 0.5
    torch.testing.assert_close(found.distance, torch.tensor([expected, 0.0]), rtol=1e-4, atol=1e-4)


def test_copies_are_told_from_new_images():
    training, unseen, new = noise(200, seed=1), noise(200, seed=2), noise(200, seed=3)
    usual = nearest(unseen, training).distance
    assert copied(nearest(training[:50], training).distance, usual) == 1.0
    assert copied(nearest(new, training).distance, usual) < 0.15
