"""Sharpness and brightness are added to the latents that the decoder gets, and to nothing else."""

import pytest
import torch

from micro_diffusion.sampling.latent_editing import LatentEdit


def test_each_goes_to_its_channel_and_the_latents_stay():
    latents = torch.randn(2, 4, 3, 3)
    before = latents.clone()
    added = LatentEdit(sharpness=0.1, brightness=-0.2)(latents) - latents
    expected = torch.tensor([-0.2, 0, 0, 0.1]).view(1, 4, 1, 1).expand_as(latents)
    torch.testing.assert_close(added, expected)
    assert torch.equal(latents, before)
    assert LatentEdit()(latents) is latents


def test_what_cannot_be_edited_is_refused_before_it_is_generated():
    LatentEdit().check(3)
    LatentEdit(0.1, 0.1).check(4)
    with pytest.raises(ValueError, match="latents of 4 channels, but these have 16; leave them out"):
        LatentEdit(sharpness=0.1).check(16)
    with pytest.raises(ValueError, match="sharpness is nan and brightness 0.0; give finite numbers"):
        LatentEdit(sharpness=float("nan")).check(4)
