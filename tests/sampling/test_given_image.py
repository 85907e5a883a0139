"""Generating from an image: known pixels stay, the smaller image matters, guidance sees it on both sides."""

from __future__ import annotations

import pytest
import torch

from micro_diffusion.autoencoder.identity import IdentityAutoencoder
from micro_diffusion.backbone.dit import SparseDiT
from micro_diffusion.checkpoint import load_run, save_weights, write_config
from micro_diffusion.condition import Condition
from micro_diffusion.diffusion.edm import EDM
from micro_diffusion.diffusion.known_region import KnownRegion
from micro_diffusion.diffusion.low_resolution import LowResolution
from micro_diffusion.sampling.guidance import guided_denoiser
from micro_diffusion.sampling.heun import HeunSampler
from micro_diffusion.sampling.pipeline import Pipeline
from micro_diffusion.text.none import NoEncoder
from micro_diffusion.text.tiny import TinyTextEncoder
from tests.run_folder import BACKBONE, CONFIG, random_backbone
from tests.sampling.test_prepared_captions import Plain

CAPTIONS = ["a large red circle", "a small blue star", "a gray square"]
IMAGES = torch.randint(256, (3, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
OBJECTIVE = EDM(sigma_data=0.5, P_mean=0.0, P_std=1.0)
CONDITIONERS = {
    "known_region": (KnownRegion(), {"image_channels": 4}),
    "low_resolution": (LowResolution(factor=4), {"image_channels": 3, "takes_image_level": True}),
}


class Halving(IdentityAutoencoder):
    """Latents of half the sides; an image's latent is the mean of squares."""

    downsampling: int

    def __init__(self):
        super().__init__()
        self.downsampling = 2

    def encode(self, images, *, generator=None, sample=True):
        return torch.nn.functional.avg_pool2d(images, 2)

    def decode(self, latents):
        return super().decode(latents).repeat_interleave(2, 2).repeat_interleave(2, 3)


def network(**changes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = SparseDiT(**{**BACKBONE, "input_size": 16, **changes})
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    return made.eval()


def pipeline(kind, *, autoencoder=None, size=16) -> Pipeline:
    conditioner, changes = CONDITIONERS[kind]
    return Pipeline(
        text_encoder=TinyTextEncoder(dim=24, max_length=8),
        autoencoder=autoencoder or IdentityAutoencoder(),
        backbone=network(**changes, input_size=size),
        objective=OBJECTIVE,
        sampler=HeunSampler(steps=3),
        image_conditioner=conditioner,
    )


def generate(made: Pipeline, captions=CAPTIONS, guidance_scale=3.0, **options):
    return made.generate(captions, seed=0, guidance_scale=guidance_scale, **options)


def test_known_pixels_are_returned_as_they_were_and_the_others_depend_on_them():
    made = pipeline("known_region")
    images = generate(made, image=IMAGES, region="right", batch_size=2)
    assert torch.equal(images[..., :8], IMAGES[..., :8])
    assert not torch.equal(images[..., 8:], IMAGES[..., 8:])
    changed = IMAGES.clone()
    changed[..., 8:] = 0  # which nobody sees
    assert torch.equal(generate(made, image=changed, region="right", batch_size=2), images)
    changed[..., :8] = 255 - changed[..., :8]
    assert not torch.equal(generate(made, image=changed, region="right")[..., 8:], images[..., 8:])


def test_a_mask_of_pixels_and_one_image_for_all_captions():
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[3:9, 4:7] = True
    images = generate(pipeline("known_region"), image=IMAGES[0], region=mask)
    assert (images == IMAGES[0])[:, :, ~mask].all() and not (images == IMAGES[0])[:, :, mask].all()


def test_a_cell_of_which_a_pixel_is_unknown_is_generated():
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[5, 5] = True
    made = pipeline("known_region", autoencoder=Halving(), size=8)
    images = generate(made, image=IMAGES, region=mask, resolution=16)
    assert (images == IMAGES)[:, :, ~mask].all() and (images != IMAGES)[:, :, 5, 5].any()


def test_a_smaller_image_matters_and_the_noise_on_it_follows_from_the_seed():
    made, small = pipeline("low_resolution"), IMAGES[..., ::4, ::4]
    images = generate(made, image=small)
    torch.testing.assert_close(generate(made, image=small, batch_size=1).float(), images.float(), atol=1, rtol=0)
    assert not torch.equal(generate(made, image=255 - small), images)


@pytest.mark.parametrize("kind", CONDITIONERS)
@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_guidance_shows_the_image_on_both_sides(kind, scale):
    conditioner, changes = CONDITIONERS[kind]
    made, generator = network(**changes), torch.Generator().manual_seed(1)
    level = torch.tensor([0.2, 0.2]) if conditioner.tells_level else None
    shown = Condition(
        torch.randn(2, 8, 24, generator=generator), None, torch.rand(2, changes["image_channels"], 16, 16), level
    )
    x, sigma = torch.randn(2, 3, 16, 16, generator=generator), torch.tensor(1.5)
    with torch.no_grad():
        both = [OBJECTIVE.denoiser(made, text)(x, sigma) for text in (shown.null(), shown)]
        expected = both[0] + scale * (both[1] - both[0])
        for backbone in (made, Plain(made)):
            for sigmas in ((1.5, 0.3), ()):
                denoised = guided_denoiser(OBJECTIVE, backbone, shown, scale, sigmas=sigmas)(x, sigma)
                torch.testing.assert_close(denoised, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("known_region", {}, r"generates from an image \(KnownRegion\), but is given none"),
        ("known_region", {"image": IMAGES}, "not told which that is; give a region, such as left, right"),
        ("known_region", {"image": IMAGES, "region": "middle"}, "no region 'middle'; choose one of left, right"),
        (
            "known_region",
            {"image": IMAGES[..., :8], "region": "left"},
            r"\(3, 3, 16, 8\) of uint8, but .* \(3, 16, 16\)",
        ),
        ("known_region", {"image": IMAGES[:2], "region": "left"}, r"or 3 of them; resize it"),
        ("known_region", {"image": IMAGES / 255, "region": "left"}, "of float32, but this run takes uint8"),
        ("known_region", {"image": IMAGES, "region": torch.zeros(16, 16) > 0}, "region has no pixel to be generated"),
        ("known_region", {"image": IMAGES, "region": torch.ones(8, 8) > 0}, r"region is \(8, 8\) of bool, but a mask"),
        ("low_resolution", {"image": IMAGES}, r"\(3, 3, 16, 16\) of uint8, but this run takes uint8 \(3, 4, 4\)"),
        ("low_resolution", {"image": IMAGES[..., ::4, ::4], "region": "left"}, "a region has no effect"),
    ],
)
def test_what_is_missing_or_does_not_fit_is_said(kind, given, message):
    with pytest.raises(ValueError, match=message):
        generate(pipeline(kind), **given)


def test_a_run_without_images_takes_none():
    parts = {"text_encoder": TinyTextEncoder(dim=24, max_length=8), "autoencoder": IdentityAutoencoder()}
    made = Pipeline(**parts, backbone=random_backbone(0), objective=OBJECTIVE, sampler=HeunSampler(steps=1))
    with pytest.raises(ValueError, match="this run takes none .its config has no image_conditioner.; leave it out"):
        generate(made, image=IMAGES)
    with pytest.raises(ValueError, match="backbone.image_channels is 0, .* image_conditioner gives 4; set backbone.im"):
        Pipeline(
            **parts,
            backbone=random_backbone(0),
            objective=OBJECTIVE,
            sampler=HeunSampler(steps=1),
            image_conditioner=KnownRegion(),
        )


def test_a_run_without_captions_is_not_guided():
    made = Pipeline(
        text_encoder=NoEncoder(),
        autoencoder=IdentityAutoencoder(),
        backbone=network(caption_dim=1),
        objective=OBJECTIVE,
        sampler=HeunSampler(steps=1),
    )
    with pytest.raises(
        ValueError, match="guidance_scale is 3.0, but this run has no captions to guide to; set it to 1"
    ):
        generate(made)
    assert torch.equal(generate(made, ["", "a"], 1), generate(made, ["", ""], 0))


def test_a_run_folder_keeps_its_image_conditioner(tmp_path):
    changes = {"image_channels": 4}
    write_config(
        tmp_path,
        {
            **CONFIG,
            "backbone": {**CONFIG["backbone"], **changes},
            "image_conditioner": {
                "_target_": "micro_diffusion.diffusion.known_region.KnownRegion",
                "regions": ["left"],
            },
        },
    )
    save_weights(tmp_path, network(**changes).state_dict(), "ema")
    conditioner = load_run(tmp_path).image_conditioner
    assert isinstance(conditioner, KnownRegion) and conditioner.regions == ("left",)
