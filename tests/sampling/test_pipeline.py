"""The pipeline: images follow from caption, seed and index, and wrong sizes are refused with a remedy."""

import pytest
import torch

from micro_diffusion.autoencoder.identity import IdentityAutoencoder
from micro_diffusion.diffusion.edm import EDM
from micro_diffusion.sampling.guidance import WeakerRun
from micro_diffusion.sampling.heun import HeunSampler
from micro_diffusion.sampling.latent_editing import LatentEdit
from micro_diffusion.sampling.pipeline import Pipeline, to_uint8
from micro_diffusion.sampling.start import image_generator
from micro_diffusion.text.tiny import TinyTextEncoder
from tests.run_folder import random_backbone

CAPTIONS = ["a large red circle", "a small blue star", "a gray square", "a cat", "a dog"]


class FakeAutoencoder(IdentityAutoencoder):
    """A decoder that repeats every pixel, so that latents are smaller than images."""

    downsampling: int

    def __init__(self) -> None:
        super().__init__()
        self.downsampling = 2

    def decode(self, latents):
        return super().decode(latents).repeat_interleave(2, 2).repeat_interleave(2, 3)


def pipeline(**changes) -> Pipeline:
    parts = {
        "text_encoder": TinyTextEncoder(dim=24, max_length=8),
        "autoencoder": IdentityAutoencoder(),
        "backbone": random_backbone(seed=0),
        "objective": EDM(sigma_data=0.5, P_mean=0.0, P_std=1.0),
        "sampler": HeunSampler(steps=3),
    }
    return Pipeline(**{**parts, **changes})


def draw(captions=CAPTIONS, *, seed=0, guidance_scale=3.0, resolution=16, **options) -> torch.Tensor:
    parts = {key: options.pop(key) for key in ("sampler", "autoencoder", "weaker") if key in options}
    return pipeline(**parts).generate(
        captions, seed=seed, guidance_scale=guidance_scale, resolution=resolution, **options
    )


def difference(a: torch.Tensor, b: torch.Tensor) -> int:
    return int((a.int() - b.int()).abs().max())


def test_a_seed_fixes_the_images_and_zero_is_a_seed():
    first = draw(seed=0)
    assert first.shape == (5, 3, 16, 16)
    assert first.dtype == torch.uint8
    torch.manual_seed(1)
    assert torch.equal(draw(seed=0), first)
    assert difference(draw(seed=1), first) > 10
    assert difference(draw(seed=-1), first) > 10


def test_generation_leaves_the_global_draws_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    draw()
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("sampler", [HeunSampler(steps=3), HeunSampler(steps=3, churn=2.0)])
def test_an_image_does_not_depend_on_its_batch(sampler: HeunSampler):
    together = draw(sampler=sampler)
    assert difference(draw(sampler=sampler, batch_size=2), together) <= 1
    assert difference(draw(CAPTIONS[:1], sampler=sampler), together[:1]) <= 1


def test_equal_captions_give_different_images():
    a, b = draw(["a cat", "a cat"])
    assert difference(a, b) > 10


def test_caption_guidance_and_steps_matter():
    base = draw(["a cat"])
    assert difference(draw(["a dog"]), base) > 2
    assert difference(draw(["a cat"], guidance_scale=0), base) > 2
    assert difference(draw(["a cat"], steps=9), base) > 2
    assert torch.equal(draw(["a cat"], guidance_scale=0), draw(["a dog"], guidance_scale=0))


def test_the_number_of_steps_is_the_calls_alone():
    pipe = pipeline()
    pipe.generate(["a cat"], seed=0, guidance_scale=1, resolution=16, steps=1)
    assert pipe.sampler.steps == 3


def test_one_step_is_finite_and_zero_steps_are_an_error():
    assert draw(steps=1).float().std() > 0
    with pytest.raises(ValueError, match="sampling steps is 0"):
        draw(steps=0)


def test_other_resolutions_stretch_the_positions_for_a_while():
    pipe = pipeline()
    backbone, seen = pipe.backbone, []
    resize = backbone.resize
    backbone.resize = lambda size, scale: (seen.append((tuple(size), scale)), resize(size, scale))
    images = pipe.generate(["a cat"], seed=0, guidance_scale=1, resolution=(16, 64))
    assert images.shape == (1, 3, 16, 64)
    assert seen == [((16, 64), 2.0), ((16, 16), 1.0)]
    assert backbone.input_size == (16, 16)


def test_latents_may_be_smaller_than_images():
    assert draw(["a cat"], autoencoder=FakeAutoencoder(), resolution=32).shape == (1, 3, 32, 32)


def test_images_have_the_shape_that_the_network_was_built_for():
    backbone = random_backbone(seed=0)
    backbone.resize((8, 16), 1.0)
    generated = pipeline(backbone=backbone, autoencoder=FakeAutoencoder()).generate(["a cat"], seed=0, guidance_scale=1)
    assert generated.shape == (1, 3, 16, 32)


@pytest.mark.parametrize(
    ("resolution", "wrong", "remedy"), [(20, 20, "use 16 or 24"), ((16, 3), 3, "use 8"), (0, 0, "")]
)
def test_a_resolution_that_patches_do_not_fill_is_refused(resolution, wrong, remedy):
    with pytest.raises(ValueError, match=f"resolution {wrong} is not divisible by 8 .*{remedy}"):
        draw(autoencoder=FakeAutoencoder(), resolution=resolution)


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="tiny-30 gives features of width 30, but the network takes 24"):
        pipeline(text_encoder=TinyTextEncoder(dim=30))
    wide = IdentityAutoencoder()
    wide.channels = 4
    with pytest.raises(ValueError, match="identity has 4 latent channels, but the network takes 3"):
        pipeline(autoencoder=wide)
    with pytest.raises(ValueError, match="0 captions"):
        draw([])


def test_every_pair_of_seed_and_index_has_its_own_noise():
    draws = {torch.randn(1, generator=image_generator(seed, index)).item() for seed in range(9) for index in range(9)}
    assert len(draws) == 81


def test_rounding_to_bytes():
    values = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])
    assert to_uint8(values).tolist() == [0, 0, 128, 255, 255]


def test_guidance_at_no_level_is_refused():
    with pytest.raises(ValueError, match=r"interval 1000 to 2000 holds none of the noise levels that are sampled at"):
        draw(guidance_interval=(1000.0, 2000.0))
    with pytest.raises(ValueError, match="the guidance scale is nan; choose one from -1000 to 1000"):
        draw(guidance_scale=float("nan"))


def test_edited_latents_are_what_is_decoded():
    class FourChannels(FakeAutoencoder):
        """Shows channels 0 and 3 of latents with 4 channels."""

        channels = 4

        def __init__(self) -> None:
            super().__init__()
            self.channels = 4

        def decode(self, latents):
            return super().decode(latents[:, [0, 3, 3]] / 10)

    parts = {"autoencoder": FourChannels(), "backbone": random_backbone(seed=0, in_channels=4)}
    settings = {"seed": 0, "guidance_scale": 1.0, "resolution": 32, "steps": 2}
    plain = pipeline(**parts).generate(CAPTIONS[:1], **settings).int()
    edited = pipeline(**parts).generate(CAPTIONS[:1], edit=LatentEdit(sharpness=0.4, brightness=-0.2), **settings).int()
    inside = (plain > 10) & (plain < 245)
    for channel, step in ((0, -0.02), (1, 0.04)):
        moved = (edited - plain)[:, channel][inside[:, channel]]
        assert (moved - step * 127.5).abs().max() <= 1 and len(moved) > 100
    with pytest.raises(ValueError, match="these have 3; leave them out"):
        draw(edit=LatentEdit(brightness=0.1))


@pytest.mark.parametrize("resolution", [16, 32])
def test_a_weaker_run_is_guided_away_from_at_every_resolution(resolution):
    objective = EDM(sigma_data=0.5, P_mean=0.0, P_std=1.0)
    made = [
        draw(CAPTIONS[:2], weaker=WeakerRun(objective, random_backbone(seed=seed)), resolution=resolution)
        for seed in (0, 1)
    ]
    same = draw(CAPTIONS[:2], guidance_scale=1.0, resolution=resolution)
    assert difference(made[0], same) <= 1  # away from itself leads nowhere
    assert difference(made[1], same) > 10


def test_a_weaker_run_of_another_text_encoder_is_refused():
    other = WeakerRun(EDM(sigma_data=0.5, P_mean=0.0, P_std=1.0), random_backbone(seed=0, caption_dim=12))
    with pytest.raises(ValueError, match="weaker run's network has caption_dim 12, this one 24"):
        pipeline(weaker=other)
