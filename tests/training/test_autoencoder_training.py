from typing import Any

import pytest
import torch

from micro_diffusion.autoencoder.kl import KLAutoencoder
from micro_diffusion.data.image.transforms import normalise
from micro_diffusion.training.autoencoder_training import AutoencoderTraining
from micro_diffusion.training.seeded_random import Draws
from micro_diffusion.training.trainable import Trainable


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draws(seed: int = 0, size: int = 8) -> Draws:
    return Draws.of(seed, size=size)


def build(**changes) -> AutoencoderTraining:
    torch.manual_seed(0)
    autoencoder = KLAutoencoder(width=8, decoder_blocks=1)
    return AutoencoderTraining(
        **{"autoencoder": autoencoder, "kl_weight": 0.01, "crop": 16, "shrink": [1], "cpu_precision": "fp32", **changes}
    )


def batch(count: int = 8, side: int = 32) -> dict:
    coarse = torch.randint(256, (count, 3, 2, 2), generator=generator(1), dtype=torch.uint8)
    return {"images": coarse.repeat_interleave(side // 2, dim=2).repeat_interleave(side // 2, dim=3)}


def test_is_trainable_and_every_parameter_has_one_group():
    model = build()
    assert isinstance(model, Trainable)
    grouped = [id(p) for group in model.parameter_groups() for p in group["parameters"]]
    assert sorted(grouped) == sorted(id(p) for p in model.network.parameters())


def test_loss_is_error_plus_weighted_divergence():
    model = build(kl_weight=0.5)
    drawn = model.draw(batch(), draws())
    network: Any = model.network
    mean, logvar = network.posterior(normalise(drawn["images"]))
    posterior = torch.distributions.Normal(mean, (logvar / 2).exp())
    kl = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).mean()
    l1 = (network.reconstruct(mean + posterior.stddev * drawn["noise"]) - normalise(drawn["images"])).abs().mean()
    loss = model.loss(model(drawn), drawn)
    torch.testing.assert_close(loss["total"], l1 + 0.5 * kl)


@pytest.mark.parametrize(("shrink", "side"), [(1, 16), (2, 16), (4, 8)])
def test_crops_of_shrunk_images(shrink, side):
    drawn = build(shrink=[shrink]).draw(batch(), draws())
    assert drawn["images"].shape == (8, 3, side, side)
    assert drawn["images"].dtype == torch.uint8
    assert drawn["noise"].shape == (8, 4, side // 4, side // 4)


def test_indivisible_images_are_cropped_to_a_multiple():
    images = torch.zeros(2, 3, 62, 30, dtype=torch.uint8)
    drawn = build(crop=28, shrink=[2]).draw({"images": images}, draws(size=2))
    assert drawn["images"].shape == (2, 3, 28, 12)


def test_shrinking_takes_the_mean():
    images = torch.tensor([[0, 100], [100, 200]], dtype=torch.uint8).repeat(1, 3, 8, 8)
    drawn = build(shrink=[2]).draw({"images": images}, draws(size=len(images)))
    assert (drawn["images"] == 100).all()


def test_draws_follow_their_origin_and_leave_the_batch_alone():
    model, images = build(crop=8), batch()
    before = images["images"].clone()
    first, again, other = (model.draw(images, draws(seed)) for seed in (0, 0, 1))
    assert torch.equal(first["images"], again["images"]) and torch.equal(first["noise"], again["noise"])
    assert not torch.equal(first["noise"], other["noise"])
    assert torch.equal(images["images"], before)
    whole = model.draw_eval(images, draws())
    assert torch.equal(whole["images"], before) and whole["noise"].shape == (8, 4, 8, 8)


def test_metrics_have_their_definitions():
    model = build()
    drawn = model.draw_eval(batch(4), draws(size=4))
    outputs = model.eval_forward(drawn)
    values = {}
    for name, metric in model.get_metrics().items():
        model.update_metric(drawn, outputs, metric)
        assert metric.compute().ndim == 0
        values[name] = metric.compute().item()
    error = outputs.images - normalise(drawn["images"])
    assert values["l1"] == pytest.approx(error.abs().mean().item(), rel=1e-4)
    psnr = (10 * torch.log10(4 / error.square().mean(dim=(1, 2, 3)))).mean().item()
    assert values["psnr"] == pytest.approx(psnr, rel=1e-4)
    assert values["kl"] == pytest.approx(outputs.divergence.mean().item(), rel=1e-4)


def test_a_saved_autoencoder_has_unit_latents(tmp_path):
    model = build()
    model.save(tmp_path, "raw", model.network.state_dict(), [batch(16)] * 4)
    loaded = KLAutoencoder.load(tmp_path / "autoencoder", channels=4, downsampling=4)
    latents = loaded.encode(normalise(batch(64)["images"]), generator=generator())
    torch.testing.assert_close(latents.std(dim=(0, 2, 3)), torch.ones(4), atol=0.1, rtol=0)
    torch.testing.assert_close(latents.mean(dim=(0, 2, 3)), torch.zeros(4), atol=0.1, rtol=0)


def test_a_crop_has_whole_latents():
    with pytest.raises(ValueError, match="crop is 30; set it to a positive multiple of 4"):
        build(crop=30)
