"""Patches, positions and noise features against their definitions."""

import math

import pytest
import torch

from micro_diffusion.backbone.embedding import patchify, sincos_positions, sinusoidal_features, unpatchify


def test_patches_are_row_by_row_and_ordered_row_column_channel():
    x = torch.arange(2 * 3 * 4 * 6).view(2, 3, 4, 6)
    patches = patchify(x, 2)
    assert patches.shape == (2, 6, 12)
    assert torch.equal(patches[1, 4].view(2, 2, 3), x[1, :, 2:4, 2:4].permute(1, 2, 0))
    assert torch.equal(unpatchify(patches, 2, 4, 6), x)


def test_uneven_latents_are_refused():
    with pytest.raises(ValueError, match="5×6 cells cannot be cut into patches of 2"):
        patchify(torch.zeros(1, 3, 5, 6), 2)


def test_positions_hold_the_column_first_then_the_row():
    table = sincos_positions(3, 5, 8, 2.0).view(3, 5, 8)

    def code(value):
        return [f(value * w) for f in (math.sin, math.cos) for w in (1.0, 0.01)]

    torch.testing.assert_close(table[2, 3], torch.tensor(code(3 / 2) + code(2 / 2)))


def test_noise_features_are_cosines_then_sines():
    features = sinusoidal_features(torch.tensor([0.7]), 6, 10_000.0)[0]
    angles = [0.7 * 10_000 ** (-i / 3) for i in range(3)]
    torch.testing.assert_close(features, torch.tensor([math.cos(a) for a in angles] + [math.sin(a) for a in angles]))


def test_width_must_be_a_multiple_of_four():
    with pytest.raises(ValueError, match="width 6 must be a multiple of 4"):
        sincos_positions(2, 2, 6, 1.0)
