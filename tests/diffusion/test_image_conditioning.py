"""Known regions and smaller images: what the network sees of the clean latents, and that it follows from the draws."""

from __future__ import annotations

import pytest
import torch

from micro_diffusion.diffusion.edm import EDM
from micro_diffusion.diffusion.image_conditioning import ImageConditioner
from micro_diffusion.diffusion.known_region import REGIONS, KnownRegion, cells_of
from micro_diffusion.diffusion.low_resolution import LowResolution
from micro_diffusion.training.seeded_random import Draws

CLEAN = torch.randn(64, 3, 8, 12, generator=torch.Generator().manual_seed(0))


def draws(*origin, size=64, **share):
    return Draws.of(*origin, size=size, **share)


def generators(count):
    return [torch.Generator().manual_seed(i) for i in range(count)]


@pytest.mark.parametrize("made", [KnownRegion(), LowResolution(factor=2), LowResolution(factor=4)])
def test_conditioners_follow_from_the_draws_on_any_number_of_ranks(made):
    assert isinstance(made, ImageConditioner)
    whole = made.in_training(CLEAN, draws(0))
    assert whole.image.shape == (64, made.channels(3), 8, 12)
    assert not torch.equal(made.in_training(CLEAN, draws(1)).image, whole.image)
    half = made.in_training(CLEAN[1::2], draws(0, size=32, rank=1, ranks=2))
    assert torch.equal(half.image, whole.image[1::2])


def test_latents_are_seen_outside_of_the_unknown_region_alone():
    made = KnownRegion(loss_in_unknown_only=True).in_training(CLEAN, draws(0))
    unknown = made.image[:, 3:].bool()
    assert made.loss_mask is not None and torch.equal(made.loss_mask, unknown) and made.level is None
    assert torch.equal(made.image[:, :3], torch.where(unknown, 0, CLEAN))
    assert unknown.flatten(1).any(dim=1).all()


def test_halves_are_halves_and_regions_are_equally_likely():
    regions = KnownRegion(regions=list(REGIONS)).in_training(CLEAN, draws(0)).image[:, 3]
    right, top = torch.zeros(2, 8, 12)
    right[:, 6:], top[:4] = 1, 1
    expected = [1 - right, right, top, 1 - top, torch.ones(8, 12)]
    counts = [sum(torch.equal(region, one) for region in regions) for one in expected]
    assert sum(counts) == 64 and min(counts) >= 5


@pytest.mark.parametrize("shares", [(0.25, 0.75), (0.01, 0.01), (1.0, 1.0)])
def test_rectangles_have_the_shares_that_are_asked_for_and_at_least_a_cell(shares):
    regions = KnownRegion(regions=["rectangle"], rectangle=shares).in_training(CLEAN, draws(0)).image[:, 3]
    for region in regions:
        height, width = region.any(dim=1).sum(), region.any(dim=0).sum()
        assert region.sum() == height * width > 0  # without gaps
        assert shares[0] * 8 - 1 <= height <= max(1, shares[1] * 8 + 1)
        assert shares[0] * 12 - 1 <= width <= max(1, shares[1] * 12 + 1)


def test_an_edge_keeps_its_cell():
    assert cells_of(torch.tensor([[0.999, 0.999, 1.0, 1.0]]), (4, 4)).nonzero().tolist() == [[0, 0, 3, 3]]


def test_a_smaller_image_is_the_mean_of_squares_enlarged_and_noised_at_the_level_told():
    made = LowResolution(factor=2, enlargement="nearest", levels=(0.5, 2.0), sampling_level=1.0)
    image, level, loss_mask = made.in_training(CLEAN, draws(0))
    assert loss_mask is None and level is not None and (level >= 0.5).all() and (level < 2).all()
    assert len(level.unique()) > 60
    mean = CLEAN.unfold(2, 2, 2).unfold(3, 2, 2).mean(dim=(4, 5))
    noise = (image - mean.repeat_interleave(2, 2).repeat_interleave(2, 3)) / level.view(-1, 1, 1, 1)
    assert noise.mean().abs() < 0.05 and (noise.std() - 1).abs() < 0.05


def test_a_level_for_the_batch_is_the_same_on_all_ranks():
    made = LowResolution(factor=2, level_of_each_sample=False)
    levels = [made.in_training(CLEAN[:32], draws(0, size=32, rank=rank, ranks=2)).level for rank in (0, 1)]
    assert levels[0] is not None and len(levels[0]) == 32 and len(torch.cat(levels).unique()) == 1


def test_sampling_sees_the_smaller_image_at_its_level():
    made = LowResolution(factor=2, sampling_level=0.2)
    small = CLEAN[:2, :, :4, :6]
    seen = made.in_sampling(small, (8, 12), generators(2))
    assert seen.level is not None and torch.equal(seen.level, torch.full((2,), 0.2))
    assert torch.equal(seen.image, made.in_sampling(small, (8, 12), generators(2)).image)
    quiet = LowResolution(factor=2, sampling_level=0.0).in_sampling(small, (8, 12), generators(2)).image
    assert 0.15 < (seen.image - quiet).std() < 0.25
    denoiser = lambda x, sigma: x + sigma  # noqa: E731
    assert seen.keeps_known(denoiser) is denoiser


def test_sampling_keeps_the_known_cells():
    unknown = torch.zeros(2, 1, 8, 12, dtype=torch.bool)
    unknown[..., 6:] = True
    seen = KnownRegion().in_sampling(CLEAN[:2], (8, 12), generators(2), unknown)
    denoised = seen.keeps_known(lambda x, sigma: x + 5)(CLEAN[:2], 1.0)
    assert torch.equal(denoised, torch.where(unknown, CLEAN[:2] + 5, CLEAN[:2]))
    assert torch.equal(seen.image[:, 3:], unknown.float()) and seen.image[:, :3, :, 6:].abs().sum() == 0


@pytest.mark.parametrize(
    ("made", "arguments", "message"),
    [
        (KnownRegion, {"regions": ["middle"]}, r"regions is \['middle'\]; set it to one or more of rectangle, left"),
        (KnownRegion, {"regions": []}, "regions is"),
        (KnownRegion, {"rectangle": (0.5, 0.2)}, "rectangle is .*; set it to two rising shares"),
        (LowResolution, {"factor": 1}, "factor is 1; set it to a whole number above 1"),
        (LowResolution, {"factor": 2, "enlargement": "cubic"}, "enlargement is 'cubic'"),
        (LowResolution, {"factor": 2, "levels": (1.0, 0.5)}, "levels is"),
        (LowResolution, {"factor": 2, "sampling_level": 3.0}, "sampling_level is 3.0, but training sees levels from 0"),
    ],
)
def test_impossible_conditioners_are_refused(made, arguments, message):
    with pytest.raises(ValueError, match=message):
        made(**arguments)


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="smaller image has 8×12 cells, but 4×6 are needed"):
        LowResolution(factor=2).in_sampling(CLEAN[:1], (8, 12), generators(1))
    with pytest.raises(ValueError, match="8×12 is no multiple of image_conditioner.factor=8"):
        LowResolution(factor=8).in_training(CLEAN, draws(0))
    with pytest.raises(ValueError, match="a region has no effect; leave it out"):
        LowResolution(factor=2).in_sampling(CLEAN[:1, :, :4, :6], (8, 12), generators(1), torch.ones(1, 1, 8, 12) > 0)
    with pytest.raises(ValueError, match="not told which that is; give a region, such as left"):
        KnownRegion().in_sampling(CLEAN[:1], (8, 12), generators(1))


def test_examples_are_what_a_pipeline_is_given():
    images = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 3, 4, 4)
    assert KnownRegion(regions=["rectangle", "top"]).example(images)["region"] == "top"
    assert LowResolution(factor=4).example(images)["image"].shape == (2, 3, 1, 1)


class Constant:
    """A backbone that predicts 0 and sees the patches that `keep` says."""

    def __init__(self, visible=None):
        self.visible = visible

    def __call__(self, x, level, condition, keep=None):
        from micro_diffusion.backbone.backbone import Prediction

        return Prediction(torch.zeros_like(x), self.visible)


def test_the_loss_counts_where_its_mask_says():
    objective = EDM(sigma_data=0.5, P_mean=0.0, P_std=1.0)
    latents, noise, normal = CLEAN[:2], torch.zeros_like(CLEAN[:2]), torch.zeros(2)
    left = torch.zeros(2, 1, 8, 12, dtype=torch.bool)
    left[..., :6] = True

    def loss(latents, visible=None, **options):
        made = objective.loss(Constant(visible), latents, None, level_normal=normal, noise=noise, **options)
        return made.per_sample

    outside = torch.where(left, latents, 100)
    assert torch.equal(loss(latents, loss_mask=left), loss(outside, loss_mask=left))
    torch.testing.assert_close(loss(latents), (loss(latents, loss_mask=left) + loss(latents, loss_mask=~left)) / 2)
    top = torch.zeros_like(left)
    top[:, :, :4] = True
    torch.testing.assert_close(loss(latents, top, loss_mask=left), loss(latents, loss_mask=left & top))
    assert torch.equal(loss(latents, ~left, loss_mask=left), torch.zeros(2))
