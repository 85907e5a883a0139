"""The identity autoencoder: pixels in, pixels out."""

from __future__ import annotations

import pytest
import torch

from micro_diffusion.autoencoder.autoencoder import Autoencoder
from micro_diffusion.autoencoder.identity import IdentityAutoencoder


def test_round_trip():
    autoencoder = IdentityAutoencoder(std=0.5)
    assert isinstance(autoencoder, Autoencoder)
    images = torch.rand(2, 3, 5, 7) * 2 - 1
    torch.testing.assert_close(autoencoder.encode(images), images * 2)
    torch.testing.assert_close(autoencoder.decode(autoencoder.encode(images)), images)


def test_decode_clamps():
    assert IdentityAutoencoder().decode(torch.tensor([-3.0, 0.5, 3.0])).tolist() == [-1, 0.5, 1]


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="the config says 4 and 8; set autoencoder.channels=3"):
        IdentityAutoencoder(channels=4, downsampling=8)
