"""Where the encoders are while samples are drawn, and where they wait."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from composer import Timestamp
from composer.core import Precision
from hydra import compose, initialize_config_dir

from micro_diffusion.autoencoder.identity import IdentityAutoencoder
from micro_diffusion.diffusion.edm import EDM
from micro_diffusion.sampling.heun import HeunSampler
from micro_diffusion.sampling.pipeline import Pipeline
from micro_diffusion.sampling.prompts import Prompts
from micro_diffusion.text.tiny import TinyTextEncoder
from micro_diffusion.training.callbacks.image_logger import ImageLogger
from micro_diffusion.training.config_checks.resolvers import register_resolvers
from micro_diffusion.training.latent_diffusion import LatentDiffusion
from tests.run_folder import random_backbone

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
HERE = torch.device("cpu")

register_resolvers()


class Travelling:
    """An encoder that remembers where it was told to be, and where it was when it worked."""

    place, worked_at = HERE, None

    def to(self, device):
        self.place = device


class TravellingText(Travelling, TinyTextEncoder):
    def encode(self, captions):
        self.worked_at = self.place
        return super().encode(captions)


class TravellingAutoencoder(Travelling, IdentityAutoencoder):
    def decode(self, latents):
        self.worked_at = self.place
        return super().decode(latents)


def logger(folder, device, text, autoencoder):
    return ImageLogger(
        pipeline=partial(Pipeline, text_encoder=text, autoencoder=autoencoder, sampler=HeunSampler(steps=1)),
        prompts=Prompts(captions=["a large red circle"], guidance_scale=1.0),
        interval="1ba",
        folder=str(folder),
        batch_size=1,
        encoder_device=device,
    )


def after_the_last_step():
    model = LatentDiffusion(
        backbone=random_backbone(0),
        objective=EDM(sigma_data=0.5, P_mean=0.0, P_std=1.0),
        train_mask_ratio=0.0,
        caption_drop=0.0,
        noise_bands=[],
        cpu_precision="fp32",
    )
    return SimpleNamespace(
        model=model,
        algorithms=[],
        previous_timestamp=Timestamp(batch=2),
        timestamp=Timestamp(batch=3),
        get_elapsed_duration=lambda: 1.0,
        precision=Precision.FP32,
        precision_config=None,
    )


def test_encoders_travel_to_their_device_and_back(tmp_path):
    encoders = TravellingText(dim=24, max_length=16), TravellingAutoencoder()
    shown = []
    loggers = SimpleNamespace(log_images=lambda images, **_: shown.extend(images))
    logger(tmp_path, "cuda:1", *encoders).batch_checkpoint(after_the_last_step(), loggers)
    assert len(shown) == 1 and (tmp_path / "step_0000003.png").is_file()
    for encoder in encoders:
        assert (encoder.worked_at, encoder.place) == (torch.device("cuda:1"), HERE)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_missed_before_the_first_step(tmp_path):
    with pytest.raises(ValueError, match="machine.encoder_device is cuda, but torch finds no GPU; set it to cpu"):
        logger(tmp_path, "cuda", TravellingText(), TravellingAutoencoder()).fit_start(None, None)


@pytest.mark.parametrize(
    ("machine", "device"), [("cpu", "cpu"), ("gpu", "cuda"), ("80gb", "cuda"), ("141gb", "cuda"), ("12gb", "cpu")]
)
def test_a_machine_says_where_encoders_work(machine, device):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("256_pretrain", overrides=[f"machine={machine}"])
    assert config.callbacks.image_logger.encoder_device == device


@pytest.mark.parametrize("scale", [math.inf, math.nan])
def test_a_guidance_that_is_not_finite_is_refused(scale):
    with pytest.raises(ValueError, match=f"prompts.guidance_scale is {scale}; set it to a finite number"):
        Prompts(captions=["a"], guidance_scale=scale)
