"""`train.py --config-name train_representation`: from latents to a frozen encoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file

from micro_diffusion.representation.representation import Representation
from micro_diffusion.representation.saved import SelfTrained
from micro_diffusion.training.build import train
from micro_diffusion.training.config_checks.resolvers import register_resolvers
from micro_diffusion.training.representation_training import RepresentationTraining
from micro_diffusion.training.seeded_random import Draws
from micro_diffusion.training.trainable import Trainable
from tests.representation.test_masked_autoencoder import network
from tests.small_training import ROOT, losses, make_latents, train_here

SMALL = [
    "exp_name=representation",
    "resolution=16",
    "model.network.patch_size=1",
    "model.network.dim=32",
    "model.network.depth=1",
    "model.network.head_dim=16",
    "model.network.decoder_dim=16",
    "model.cpu_precision=fp32",
    "machine=cpu",
    "train_loader.batch_size=4",
    "eval_loader.batch_size=8",
    "algorithms.ema.start=2ba",
    "trainer.max_duration=4ba",
    "trainer.eval_interval=4ba",
]


def train_representation(workplace: Path, *changes: str) -> Path:
    """A run of a few steps on `workplace/latents` -> its folder."""
    register_resolvers()
    data = [f"{part}_loader.path={workplace}/latents" for part in ("train", "eval")]
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = compose("train_representation", [f"output_dir={workplace}/runs", *data, *SMALL, *changes])
    train(config)
    return workplace / "runs" / config.exp_name


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("representation")
    make_latents(folder, count=12)
    return folder


def test_a_run_folder_is_an_encoder(workplace):
    run = train_representation(workplace)
    assert len(losses(run)) == 4
    encoder = SelfTrained(run=str(run))
    assert isinstance(encoder, Representation) and encoder.dim == 32
    averaged = load_file(run / "ema.safetensors")
    assert all(torch.equal(value, averaged[key]) for key, value in encoder.network.state_dict().items())
    assert not any(parameter.requires_grad for parameter in encoder.network.parameters())
    latents = torch.randn(2, 4, 4, 4, requires_grad=True)
    features = encoder.features(latents, (2, 2))
    assert features.shape == (2, 4, 32)
    assert torch.autograd.grad(features.square().sum(), latents)[0].abs().sum() > 0
    with torch.device("meta"):
        assert SelfTrained(run=str(run)).features(torch.zeros(1, 4, 4, 4), (4, 4)).is_meta


def test_a_run_of_something_else_is_no_encoder(workplace):
    train_here(workplace, "exp_name=backbone", "trainer.max_duration=3ba", "callbacks=monitors")
    with pytest.raises(ValueError, match="backbone trained no representation; name the folder of a run of train_repr"):
        SelfTrained(run=str(workplace / "runs/backbone"))
    with pytest.raises(FileNotFoundError, match="there is no run folder .* train one with"):
        SelfTrained(run=str(workplace / "runs/nothing"))


def test_masks_follow_their_draws():
    model = RepresentationTraining(network=network(), mask_ratio=0.75, cpu_precision="fp32")
    assert isinstance(model, Trainable)
    batch = {"latents": torch.randn(3, 4, 8, 8)}
    first, again, other = (model.draw(batch, Draws.of(seed, size=3)) for seed in (0, 0, 1))
    assert first["keep"].shape == (3, 4) and torch.equal(first["keep"], again["keep"])
    assert not torch.equal(first["keep"], other["keep"])
    torch.testing.assert_close(model.loss(model(first), first), model.network(first["latents"], first["keep"]).mean())
    with pytest.raises(ValueError, match="keeps none of 16 patches"):
        RepresentationTraining(network=network(), mask_ratio=0.99, cpu_precision="fp32")
