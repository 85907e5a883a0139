"""REG: what an encoder sees is denoised with the image, in training beside it, in sampling thrown away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

from micro_diffusion.autoencoder.identity import IdentityAutoencoder
from micro_diffusion.backbone.dit import SparseDiT
from micro_diffusion.diffusion.edm import EDM
from micro_diffusion.diffusion.low_resolution import LowResolution
from micro_diffusion.export.program import example_inputs
from micro_diffusion.generation.pipeline import Pipeline as ImagePipeline
from micro_diffusion.performance.training_step import activation_bytes
from micro_diffusion.sampling.guidance import WeakerRun
from micro_diffusion.sampling.heun import HeunSampler
from micro_diffusion.sampling.pipeline import Pipeline, of_image
from micro_diffusion.sampling.thresholding import StaticThresholding
from micro_diffusion.text.tiny import TinyTextEncoder
from micro_diffusion.training.auxiliary.auxiliary import Auxiliary, Step
from micro_diffusion.training.entanglement import Entanglement
from micro_diffusion.training.latent_diffusion import LatentDiffusion
from micro_diffusion.training.seeded_random import Draws
from tests.run_folder import random_backbone
from tests.small_training import ROOT, losses, make_latents, overrides, train_here
from tests.training.auxiliary.test_auxiliary import SHAPE, Encoder, alignment, drawn
from tests.training.test_representation_training import train_representation


class Wide(Encoder):
    """Features as wide as two rows of these latents."""

    dim = 64


def make_model(
    entangled: Entanglement | None = None, *, mask: float = 0.0, model: dict[str, Any] | None = None, **changes: Any
) -> LatentDiffusion:
    torch.manual_seed(0)
    backbone = SparseDiT(**{**SHAPE, "class_token": 0 if entangled is None else entangled.features, **changes})
    for parameter in backbone.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.1)
    parts = {"objective": EDM(sigma_data=1.0, P_mean=0.0, P_std=1.2), "noise_bands": [1.0], "cpu_precision": "fp32"}
    return LatentDiffusion(
        backbone=backbone, train_mask_ratio=mask, caption_drop=0.0, entangled=entangled, **{**parts, **(model or {})}
    )


def entanglement(**changes: Any) -> Entanglement:
    return Entanglement(encoder=Wide(), **changes)


def test_the_vector_is_the_mean_feature_with_the_deviation_of_the_latents():
    made = entanglement(deviation=0.5)
    latents = torch.randn(3, 4, 8, 8, requires_grad=True)
    vector = made(latents, (4, 4))
    mean = made.encoder.features(latents, (4, 4)).mean(dim=1)
    expected = 0.5 * (mean - mean.mean(dim=1, keepdim=True)) / mean.std(dim=1, keepdim=True, correction=0)
    torch.testing.assert_close(vector, expected, rtol=1e-3, atol=1e-3)
    assert not vector.requires_grad and made.frozen == made.encoder.frozen


@pytest.mark.parametrize("mask", [0.0, 0.5])
def test_a_step_draws_what_it_would_without_and_trains_both(mask):
    model, plain = make_model(entanglement(), mask=mask), make_model(mask=mask)
    batch, without = drawn(model), drawn(plain)
    assert batch["class_noise"].shape == (3, 64)
    assert all(torch.equal(batch[key], value) for key, value in without.items() if isinstance(value, Tensor))
    made = model(batch)
    assert made.denoised.shape == (3, 4, 10, 8)
    assert (made.visible is None) == (mask == 0) and (mask == 0 or made.visible[:, :, 8:].all())
    model.loss(made, batch).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.network.class_token.parameters())
    assert set(model.state_dict()) == {f"network.{key}" for key in model.network.state_dict()}
    assert model.frozen == [model.entangled.encoder.map]


def test_evaluation_counts_the_cells_of_the_image_alone():
    model, plain = make_model(entanglement()).eval(), make_model().eval()
    batch = {key: value for key, value in drawn(plain).items() if key not in ("level_normal", "noise")}
    with torch.no_grad():
        ours, theirs = (m.draw_eval(batch, Draws.of(0, size=3)) for m in (model, plain))
        assert torch.equal(ours["noise"], theirs["noise"])
        made = model.eval_forward(ours)
        clean = batch["latents"]
        error = (made.denoised[:, :, :8] - clean).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(made.per_sample, model.objective.weight(made.sigma) * error)


class Seen(Auxiliary):
    """Keeps the steps that it is shown."""

    @property
    def frozen(self) -> list[nn.Module]:
        return []

    def forward(self, step: Step) -> Tensor:
        self.step = step
        return step.denoised.mean()


@pytest.mark.parametrize("mask", [0.0, 0.5])
def test_further_losses_see_the_image_alone(mask):
    look, aligned = Seen(weight=1.0, until=1.0), alignment()
    model = make_model(entanglement(), mask=mask, model={"auxiliary": {"look": look, "repa": aligned}})
    batch = drawn(model)
    found = model.loss(model(batch), batch)
    assert isinstance(found, dict) and torch.isfinite(found["total"])
    assert look.step.latents.shape == look.step.denoised.shape == (3, 4, 8, 8)
    assert mask == 0 or look.step.visible.shape == (3, 1, 8, 8)
    assert model.frozen == [*aligned.frozen, *model.entangled.frozen]
    tokens: list[Tensor] = []
    aligned.head.register_forward_pre_hook(lambda head, inputs: tokens.append(inputs[0]))
    model(batch)
    assert tokens[0].shape[1] == (16 if mask == 0 else 8)


def test_what_does_not_fit_is_one_sentence():
    with pytest.raises(ValueError, match="class_token is 0, but model.entangled makes a vector of 64; set back"):
        make_model(entanglement(), class_token=0)
    with pytest.raises(ValueError, match="class_token is 64, but model.entangled is null, so there is no vector"):
        make_model(class_token=64)
    with pytest.raises(ValueError, match="train_crop is 4, but model.entangled sees whole latents"):
        make_model(entanglement(), model={"train_crop": 4})
    with pytest.raises(ValueError, match="class_token=64 does not go with image_channels=4"):
        make_model(entanglement(), image_channels=4, model={"image_conditioner": LowResolution(factor=2)})


def pipeline(**changes: Any) -> Pipeline:
    parts = {
        "text_encoder": TinyTextEncoder(dim=24, max_length=8),
        "autoencoder": IdentityAutoencoder(),
        "backbone": random_backbone(seed=0, class_token=96),
        "objective": EDM(sigma_data=0.5, P_mean=0.0, P_std=1.0),
        "sampler": HeunSampler(steps=2),
    }
    return Pipeline(**{**parts, **changes})


@pytest.mark.parametrize("resolution", [16, (16, 32)])
def test_generating_throws_the_rows_away(resolution):
    made = pipeline().generate(["a cat", "a dog"], seed=0, guidance_scale=2.0, resolution=resolution)
    assert made.shape == (2, 3, 16, 16 if resolution == 16 else 32) and made.float().std() > 0
    with pytest.raises(ValueError, match="the weaker run's network has class_token 0, this one 96"):
        pipeline(weaker=WeakerRun(pipeline().objective, random_backbone(seed=1)))
    network = random_backbone(seed=0, class_token=96)
    inputs = example_inputs(network, 2, 8)
    assert inputs["x"].shape == (2, 3, 18, 16)


def test_thresholding_leaves_the_vector():
    clean = torch.full((1, 3, 18, 16), 3.0)
    backbone = random_backbone(seed=0, class_token=96)
    made = of_image(StaticThresholding(), backbone)(lambda x, sigma: clean)(clean, 1.0)
    assert (made[:, :, :16] == 1).all() and (made[:, :, 16:] == 3).all()


def test_a_run_is_trained_evaluated_and_generates(tmp_path: Path):
    """`train.py` with `+entangled=reg`: a run folder that needs no encoder, and takes no image."""
    make_latents(tmp_path, count=12)
    encoder = train_representation(tmp_path)
    command = ["+entangled=reg", f"model.entangled.encoder.run={encoder}", "backbone.class_token=32"]
    train_here(tmp_path, "exp_name=reg", *command, "trainer.max_duration=4ba", "trainer.eval_interval=4ba")
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        configs = [compose("quickstart_32_pretrain", [*overrides(tmp_path), *more]) for more in ((), command)]
    assert activation_bytes(configs[0]) < activation_bytes(configs[1])
    run = tmp_path / "runs/reg"
    assert len(losses(run)) == 4
    encoder.rename(tmp_path / "elsewhere")
    made = ImagePipeline.from_run(run, device="cpu")
    seen = []
    (image,) = made("a red circle", progress=False, on_preview=lambda preview: seen.extend(preview.images()))
    assert image.size == (16, 16) and seen[0].size == (16, 16)
    with pytest.raises(ValueError, match="an image is given, but this run denoises a class token with its images"):
        made("a red circle", image=image, strength=0.5, progress=False)
